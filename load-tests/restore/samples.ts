import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { parseRekindleFile } from '../../src/workloads/file.ts';
import { readinessOf, warmupOf } from '../../src/workloads/normalise.ts';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';

export const SAMPLES = resolve(import.meta.dirname, '../../images/samples');

/** A sample workload on a port of its own, so that it can share the machine's network with whatever else runs. */
export type Sample = {
  readonly name: string;
  readonly workload: WorkloadSpec;
  /** The same, but its instances always start cold. */
  readonly cold: WorkloadSpec;
  readonly port: number;
  readonly warmPath: string;
  readonly warmCount: number;
};

export async function readSamples(): Promise<readonly Sample[]> {
  const text = await readFile(join(SAMPLES, 'rekindle.yaml'), 'utf8');
  const port = 20_000 + Math.floor(Math.random() * 10_000);
  return parseRekindleFile(text.replaceAll('8080', String(port)), 'rekindle.yaml', SAMPLES).map((spec) => {
    const [warm] = warmupOf(spec);
    const probe = readinessOf(spec);
    if (warm?.kind !== 'requests' || probe?.kind !== 'http') throw new Error(`the sample ${spec.name} is not checked and warmed by HTTP`);
    const container = { ...spec.container, env: { ...spec.container.env, PORT: String(port) } };
    return {
      name: spec.name,
      workload: { ...spec, container },
      cold: { ...spec, name: `${spec.name}-cold`, container: { ...container, instanceEnv: { LOAD_TEST_NAME: 'name' } } },
      port,
      warmPath: warm.request.path,
      warmCount: warm.count,
    };
  });
}
