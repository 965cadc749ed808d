import { rekindleJsonSchema } from '../workloads/json-schema.ts';
import { type Context, print } from './context.ts';

/** `rekindle schema`: the JSON schema of rekindle.yaml, as `rekindle.schema.json` has it. */
export async function printSchema(_context: Context): Promise<void> {
  print(JSON.stringify(rekindleJsonSchema(), null, 2));
}
