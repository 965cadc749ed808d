// Run by local.test.ts, which kills it: makes containers one after the other in a given place, and names each that runs.
import { systemClock } from '../../src/lib/clock.ts';
import { exec } from '../../src/lib/exec.ts';
import { silentLog } from '../../src/lib/log.ts';
import { LocalHost } from '../../src/local/host.ts';
import { aWorkload } from './local-fixture.ts';

const { image, ...place } = JSON.parse(process.argv[2] ?? '{}');
const host = await LocalHost.open({ ...place, exec, clock: systemClock, log: silentLog });
process.stdout.write('open\n');
for (;;) {
  const container = await host.create(aWorkload({ image, volumes: [{ at: '/data', private: 'memory' }] }), {
    signal: AbortSignal.timeout(60_000),
  });
  process.stdout.write(`${container.uid}\n`);
}
