import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { exec } from '../../src/lib/exec.ts';
import { foreign, installed } from './fixture/cluster.ts';

const ROOT = join(import.meta.dirname, '..', '..');

beforeAll(() => installed());

test.skipIf(foreign)(
  `a node of the cluster keeps the promises of a host, seen from among its processes${foreign ? ' (skipped: this cluster is not ours to enter)' : ''}`,
  { timeout: 300_000 },
  async () => {
    const vitest = [
      join(ROOT, 'node_modules/vitest/vitest.mjs'),
      'run',
      '--config',
      'test/cluster/inside/vitest.config.ts',
      '--root',
      ROOT,
    ];
    const { PATH = '' } = process.env;
    const { stdout, stderr, status } = await exec(join(ROOT, 'test/cluster/cluster'), ['node', '1', join(ROOT, '.build/node'), ...vitest], {
      env: { PATH: `${join(ROOT, '.build/cluster/bin')}:${PATH}`, HOME: '/root', NO_COLOR: '1' },
      timeoutMs: 280_000,
    });

    expect(`${stdout}\n${stderr}`).toMatch(/Tests\s+\d+ passed/);
    expect(status, `${stdout}\n${stderr}`).toBe(0);
  },
);
