import { hash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Exec } from '../../../src/lib/exec.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { Images } from '../../../src/local/images.ts';

const never = new AbortController().signal;
const TAG = 'docker://registry.example/shop/web:1';
const BY_DIGEST = `docker://registry.example/shop/web@sha256:${'a'.repeat(64)}`;
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-images-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

/** skopeo and umoci, and a registry whose tag means an image with this command. */
function aRegistry(command: string) {
  const registry = { command, answers: true, asked: [] as string[] };
  const exec: Exec = async (program, args) => {
    const ended = { status: 0, stdout: '', stderr: '', durationMs: 1 };
    const [source = '', target = ''] = args.slice(-2);
    if (program === 'umoci') {
      await mkdir(join(target, 'rootfs'), { recursive: true });
      return ended;
    }
    registry.asked.push(source);
    if (!registry.answers) return { ...ended, status: 1, stderr: 'Error: pinging container registry: connection refused' };
    const layout = target.replace(/^oci:(.*):image$/, '$1');
    const blob = async (content: unknown) => {
      const digest = hash('sha256', JSON.stringify(content), 'hex');
      await mkdir(join(layout, 'blobs/sha256'), { recursive: true });
      await writeFile(join(layout, 'blobs/sha256', digest), JSON.stringify(content));
      return { digest: `sha256:${digest}` };
    };
    const config = await blob({ config: { Cmd: [registry.command], User: '7' } });
    await writeFile(join(layout, 'index.json'), JSON.stringify({ manifests: [await blob({ config })] }));
    return ended;
  };
  return Object.assign(registry, { exec });
}

test('what a tag of a registry means is asked once by each process, and unpacked once', async () => {
  const registry = aRegistry('one');
  const images = () => new Images({ exec: registry.exec, log: silentLog, dir });
  const first = images();

  const [image, again] = [await first.get(TAG, never), await first.get(TAG, never)];
  expect(image).toMatchObject({ rootDir: expect.stringContaining('rootfs'), defaults: { cmd: ['one'], user: '7', workdir: '/' } });
  expect(again).toEqual(image);
  expect(registry.asked).toEqual([TAG]);

  expect(await images().get(TAG, never)).toEqual(image);
  registry.command = 'two';
  const moved = await images().get(TAG, never);
  expect(moved.defaults.cmd).toEqual(['two']);
  expect(moved.digest).not.toBe(image.digest);
  expect((await readdir(dir)).filter((name) => name !== 'references').sort()).toEqual(
    [image, moved].map(({ digest }) => digest.replace(':', '-')).sort(),
  );
});

test('while the registry does not answer it means what it did last time; without a last time that is an error', async () => {
  const registry = aRegistry('one');
  const images = () => new Images({ exec: registry.exec, log: silentLog, dir });
  const image = await images().get(TAG, never);
  registry.answers = false;

  expect(await images().get(TAG, never)).toEqual(image);
  await expect(images().get('docker://registry.example/other', never)).rejects.toMatchObject({
    code: 'image_unavailable',
    message: expect.stringContaining('connection refused'),
  });
});

test('a digest means the same for ever: its registry is not asked twice', async () => {
  const registry = aRegistry('one');
  const images = () => new Images({ exec: registry.exec, log: silentLog, dir });

  const image = await images().get(BY_DIGEST, never);
  expect(await images().get(BY_DIGEST, never)).toEqual(image);

  expect(registry.asked).toEqual([BY_DIGEST]);
});
