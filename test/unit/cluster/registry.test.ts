import { createHash } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseReference } from '../../../src/cluster/image-reference.ts';
import { Registry } from '../../../src/cluster/registry.ts';

const sha = (text: string) => `sha256:${createHash('sha256').update(text).digest('hex')}`;
const SOME = 'a'.repeat(64);

describe('the name of an image', () => {
  test.each([
    ['nginx', 'docker.io', 'library/nginx', 'latest', undefined],
    ['shop/web:1.2', 'docker.io', 'shop/web', '1.2', undefined],
    ['index.docker.io/shop/web', 'docker.io', 'shop/web', 'latest', undefined],
    ['localhost/web', 'localhost', 'web', 'latest', undefined],
    ['10.0.0.1:5000/a/b:c', '10.0.0.1:5000', 'a/b', 'c', undefined],
    ['[fd00::1]:5000/a', '[fd00::1]:5000', 'a', 'latest', undefined],
    [`example.org/a:b@sha256:${SOME}`, 'example.org', 'a', 'b', `sha256:${SOME}`],
    [`example.org/a@sha256:${SOME}`, 'example.org', 'a', 'latest', `sha256:${SOME}`],
  ])('%s is read as runtimes read it', (text, host, repository, tag, digest) => {
    expect(parseReference(text)).toEqual({ host, repository, tag, digest });
  });

  test.each(['', 'UPPER', 'a b', 'example.org/', 'example.org/../x', 'user@host/x', 'a/b?c=d', `a@sha256:12`])('%j is none', (text) => {
    expect(parseReference(text)).toBeUndefined();
  });
});

describe('a registry', () => {
  const config = JSON.stringify({ architecture: 'amd64', config: { Entrypoint: ['/entry'], Cmd: ['serve'] } });
  const manifest = JSON.stringify({ schemaVersion: 2, config: { digest: sha(config) } });
  const index = JSON.stringify({
    manifests: [
      { digest: `sha256:${SOME}`, platform: { os: 'unknown', architecture: 'unknown' } },
      { digest: `sha256:${SOME}`, platform: { os: 'linux', architecture: 'arm64' } },
      { digest: sha(manifest), platform: { os: 'linux', architecture: 'amd64' } },
    ],
  });
  let server: Server;
  let host: string;
  let files: Record<string, string>;
  /** What a client has to show, and where it gets it. */
  let wanted: { readonly token: string; readonly realm: string } | undefined;
  const signal = () => AbortSignal.timeout(5_000);

  beforeEach(async () => {
    wanted = undefined;
    server = createServer((request, response) => {
      const url = new URL(request.url ?? '/', 'http://registry');
      if (url.pathname === '/token')
        return response.end(JSON.stringify({ token: `${url.searchParams.get('service')}-${url.searchParams.get('scope')}` }));
      if (wanted !== undefined && request.headers.authorization !== `Bearer ${wanted.token}`)
        return response.writeHead(401, { 'www-authenticate': `Bearer realm="${wanted.realm}",service="reg",scope="pull"` }).end();
      const file = files[url.pathname];
      response.writeHead(file === undefined ? 404 : 200).end(file);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    files = {
      '/v2/shop/web/manifests/1': manifest,
      '/v2/shop/web/manifests/many': index,
      [`/v2/shop/web/manifests/${sha(manifest)}`]: manifest,
      [`/v2/shop/web/blobs/${sha(config)}`]: config,
    };
  });
  afterEach(() => new Promise<void>((resolve) => server.close(() => resolve())));

  const find = (name: string, plain: readonly string[] = ['127.0.0.0/8']) =>
    new Registry({ plain, architecture: 'amd64' }).find(`${host}/${name}`, signal());

  test.each([['shop/web:1'], ['shop/web:many'], [`shop/web@${sha(manifest)}`]])('says what %s runs', async (name) => {
    expect(await find(name)).toEqual({ digest: sha(config), entrypoint: ['/entry'], cmd: ['serve'] });
  });

  test('gives a token to anybody, where it wants one', async () => {
    wanted = { token: 'reg-pull', realm: `http://${host}/token` };

    expect(await find('shop/web:1')).toMatchObject({ entrypoint: ['/entry'] });
  });

  test('that wants more than an anonymous token is not asked again', async () => {
    wanted = { token: 'another', realm: `http://${host}/token` };

    await expect(find('shop/web:1')).rejects.toMatchObject({ code: 'image_unavailable', message: expect.stringContaining('answered 401') });
  });

  test('cannot send us to a place of another protocol for the token', async () => {
    wanted = { token: 'reg-pull', realm: `https://${host}/token` };

    await expect(find('shop/web:1')).rejects.toMatchObject({ message: expect.stringContaining('sends to https://') });
  });

  test('is asked over TLS unless it is listed', async () => {
    await expect(find('shop/web:1', ['10.0.0.0/8', 'localhost'])).rejects.toMatchObject({ code: 'image_unavailable' });
    expect(await find('shop/web:1', [host])).toMatchObject({ cmd: ['serve'] });
    expect(await find('shop/web:1', ['127.0.0.1'])).toMatchObject({ cmd: ['serve'] });
  });

  test.each<[string, (files: Record<string, string>) => void, string]>([
    ['has no such image', (all) => delete all['/v2/shop/web/manifests/1'], 'answered 404'],
    ['gives a configuration with another digest', (all) => (all[`/v2/shop/web/blobs/${sha(config)}`] = '{}'), 'is sha256:'],
    ['gives nonsense', (all) => (all['/v2/shop/web/manifests/1'] = '{"config":7}'), 'not what the specification says'],
    ['gives more than a manifest may have', (all) => (all['/v2/shop/web/manifests/1'] = ' '.repeat(5 * 1024 * 1024)), 'more than'],
  ])('that %s is no help, and says so', async (_, spoil, says) => {
    spoil(files);

    await expect(find('shop/web:1')).rejects.toMatchObject({ code: 'image_unavailable', message: expect.stringContaining(says) });
  });

  test('an image without a command has none', async () => {
    const none = JSON.stringify({ config: { Entrypoint: null } });
    files['/v2/shop/none/manifests/latest'] = JSON.stringify({ config: { digest: sha(none) } });
    files[`/v2/shop/none/blobs/${sha(none)}`] = none;

    expect(await find('shop/none')).toEqual({ digest: sha(none), entrypoint: [], cmd: [] });
  });
});
