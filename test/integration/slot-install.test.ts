import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { exec } from '../../src/lib/exec.ts';
import { SLOT } from '../fixtures/slot-process.ts';

const FILES = ['entropy.so', 'random-uuid.cjs', 'slot'];
let image: string;

/** A root filesystem that holds nothing but the slot's files, /proc, and a directory that every user may write, as an emptyDir. */
beforeEach(async () => {
  image = await mkdtemp(join(tmpdir(), 'rekindle-install-'));
  await chmod(image, 0o755);
  for (const dir of ['rekindle', 'proc', 'to']) await mkdir(join(image, dir));
  await chmod(join(image, 'to'), 0o777);
  for (const file of FILES) await copyFile(join(dirname(SLOT), file), join(image, 'rekindle', file));
});

afterEach(() => rm(image, { recursive: true, force: true }));

/** As the init container of a pod that runs as nobody; its `stdout` is what lies in /to afterwards. */
const install = (dir: string, before = '') =>
  exec(
    'unshare',
    [
      ...['--pid', '--fork', '--mount', '--', 'sh', '-c'],
      `mount -t proc proc "$0/proc" && { ${before} chroot --userspec=65534:65534 "$0" /rekindle/slot --install "$1"; status=$?; ls -A "$0/to"; exit $status; }`,
      image,
      dir,
    ],
    { timeoutMs: 10_000 },
  );

describe.skipIf(process.getuid?.() !== 0)('slot --install (needs root for namespaces)', () => {
  test('copies the slot and what lies beside it, without a shell and as any user', async () => {
    expect(await install('/to')).toMatchObject({ status: 0, stdout: FILES.join('\n'), stderr: '' });

    for (const file of FILES) {
      const to = join(image, 'to', file);
      expect((await readFile(to)).equals(await readFile(join(image, 'rekindle', file)))).toBe(true);
      // CRIU wants the modes that the seed's had, and a trial has the agent's own.
      expect((await stat(to)).mode).toBe((await stat(join(image, 'rekindle', file))).mode);
    }
    expect(await exec(join(image, 'to', 'slot'), ['--version'])).toMatchObject({ status: 0 });
  });

  test('replaces an older installation as a whole, and whoever runs it keeps it', async () => {
    await install('/to');
    const old = await stat(join(image, 'to', 'slot'));
    await writeFile(join(image, 'rekindle', 'entropy.so'), 'newer');

    expect(await install('/to')).toMatchObject({ status: 0, stdout: FILES.join('\n') });

    expect((await stat(join(image, 'to', 'slot'))).ino).not.toBe(old.ino);
    expect(await readFile(join(image, 'to', 'entropy.so'), 'utf8')).toBe('newer');
  });

  test.each([
    ['the directory is not there', '/nowhere', '', /cannot install anything into \/nowhere: No such file/],
    ['the directory is not one', '/rekindle/slot', '', /into \/rekindle\/slot: Not a directory/],
    ['it may not write there', '/rekindle', '', /cannot install entropy\.so into \/rekindle: Permission denied/],
    ['no space is left', '/to', 'mount -t tmpfs -o size=40k,mode=777 tmpfs "$0/to";', /cannot install slot into \/to: No space left/],
    ['a file is missing', '/to', 'rm "$0/rekindle/random-uuid.cjs";', /cannot install random-uuid\.cjs into \/to: No such file/],
  ])('says so when %s, and ends with 1', async (_when, dir, before, said) => {
    const result = await install(dir, before);

    expect(result.status).toBe(1);
    expect(result.stderr).toMatch(said);
    expect(FILES).toEqual(expect.arrayContaining(result.stdout.split('\n').filter((name) => name !== '')));
  });
});
