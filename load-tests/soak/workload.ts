import { resolve } from 'node:path';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { TestEngine } from '../../test/fixtures/engine.ts';

/** A small service that writes a file: what a restore puts in place and takes along is there to be left behind. */
export function soakWorkload(): WorkloadSpec {
  return TestEngine.workload(`
workloads:
  soak:
    container:
      rootfs: host
      command:
        - ${resolve(import.meta.dirname, '../../.build/node')}
        - -e
        - |
          require('node:fs').writeFileSync('/var/tmp/soak', 'written by the seed');
          require('node:http').createServer((q, r) => r.end('ok')).listen(8080);
      volumes: [{ private: memory, at: /scratch }]
      readiness: { http: { path: /, port: 8080 } }
`);
}
