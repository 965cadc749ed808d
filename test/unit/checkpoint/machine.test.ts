import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { criuPreload, hasSysResource } from '../../../src/checkpoint/machine.ts';
import { exec } from '../../../src/lib/exec.ts';

const CRIU = '/usr/sbin/criu';
const BUILT = resolve(import.meta.dirname, '../../../.build/agent');
let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'preload-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

describe('what is preloaded into criu', () => {
  test('keeps it from loading GnuTLS, and it runs', async () => {
    const preload = await criuPreload(exec, CRIU, BUILT);

    const loaded = await exec('ldd', [CRIU], { env: { LD_PRELOAD: preload ?? '' }, timeoutMs: 10_000 });
    expect(loaded.stdout).toContain(join(BUILT, 'no-tls.so'));
    expect(loaded.stdout).not.toContain('libgnutls');
    expect((await exec(CRIU, ['--version'], { env: { LD_PRELOAD: preload ?? '' }, timeoutMs: 10_000 })).stdout).toMatch(/^Version:/);
  });

  test.each([
    ['is not there', () => undefined],
    ['is no library', () => writeFileSync(join(dir, 'no-tls.so'), 'nonsense')],
  ])('leaves out what %s', async (_, prepare) => {
    prepare();

    expect(await criuPreload(exec, CRIU, dir)).toBe((await hasSysResource()) ? undefined : join(dir, 'rlimit.so'));
  });
});
