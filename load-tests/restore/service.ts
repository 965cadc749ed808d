import { join, resolve } from 'node:path';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { TestEngine } from '../../test/fixtures/engine.ts';

/** The service of about 100 MB of which many clones are made; all of one snapshot, whether they share memory or not. */
export function service(options: { mergeMemory: boolean }): WorkloadSpec {
  const node = resolve(import.meta.dirname, '../../.build/node');
  return TestEngine.workload(`
workloads:
  service:
    container:
      rootfs: host
      command: [${node}, ${join(import.meta.dirname, 'service.cjs')}]
      readiness: { http: { path: /, port: 8080 } }
      warmup: { request: { port: 8080 }, count: 50 }
    restore: { mergeMemory: ${options.mergeMemory} }
`);
}
