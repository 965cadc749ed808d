import { RekindleFile } from './workload.ts';

/**
 * The JSON schema of `rekindle.yaml` for editors (`# yaml-language-server: $schema=rekindle.schema.json`), as plain JSON values.
 * It differs from ours in one thing: what has a default may be left out.
 */
export function rekindleJsonSchema(): object {
  return {
    // Draft 7 because that is what yaml-language-server and VS Code know best; nothing newer is used.
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'rekindle.yaml',
    description: 'workloads that rekindle warms up once and restores in milliseconds',
    ...toEditorSchema(RekindleFile),
  };
}

function toEditorSchema(schema: object): object {
  // A round trip through JSON leaves only what a schema file can hold.
  const plain: object = JSON.parse(JSON.stringify(schema), (_key, value: unknown) =>
    isObjectSchema(value) ? withoutDefaulted(value) : value,
  );
  return plain;
}

type ObjectSchema = { readonly properties: Readonly<Record<string, object>>; readonly required: readonly string[] };

function isObjectSchema(value: unknown): value is ObjectSchema {
  return typeof value === 'object' && value !== null && 'properties' in value && 'required' in value && Array.isArray(value.required);
}

function withoutDefaulted({ required, ...schema }: ObjectSchema): object {
  const needed = required.filter((key) => !('default' in (schema.properties[key] ?? {})));
  return needed.length === 0 ? schema : { ...schema, required: needed };
}
