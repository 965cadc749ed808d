// A child process of the tests: publishes snapshots into the store given as its argument until it is killed.
import { writeSync } from 'node:fs';
import { aStore, publish } from './builders.ts';

const store = aStore(process.argv[2] ?? '');
for (let i = 0; ; i++) {
  await publish(store, { specHash: `spec-${process.pid}-${i}` }, String(i));
  writeSync(1, `${i}\n`);
}
