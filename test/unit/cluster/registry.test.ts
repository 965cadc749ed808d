import { createHash } from 'node:crypto';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseReference } from '../../../src/cluster/image-reference.ts';
import { Registry } from '../../../src/cluster/registry.ts';
import { RegistryHttp } from '../../../src/cluster/registry-http.ts';
import { anAuthority } from '../../fixtures/certificates.ts';

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

  const resolve = async (name: string): Promise<readonly string[]> => {
    throw new Error(`${name} is not to be looked for`);
  };
  const find = (name: string, plain: readonly string[] = ['127.0.0.0/8']) =>
    new Registry({ plain, resolve, architecture: 'amd64' }).find(`${host}/${name}`, signal());

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

describe('where the name of an image leads', () => {
  const NAMES: Readonly<Record<string, readonly string[]>> = {
    'cluster.example': ['10.96.0.1'],
    'partly.example': ['198.51.100.7', '192.168.1.1'],
    'rebound.example': ['::ffff:127.0.0.1'],
    'translated.example': ['64:ff9b::a9fe:a9fe'],
  };
  const http = (plain: readonly string[] = ['127.0.0.0/8', 'localhost']) =>
    new RegistryHttp({ plain, resolve: async (name) => NAMES[name] ?? [] });
  const get = (url: string, plain?: readonly string[]) => {
    const at = new URL(url);
    return http(plain).open(at.host).get(at, { authorization: 'Bearer t' }, AbortSignal.timeout(5_000));
  };
  let answers: Record<string, (response: ServerResponse) => unknown>;
  let asked: string[];
  let server: Server;
  let base: string;

  beforeEach(async () => {
    asked = [];
    answers = {};
    server = createServer((request, response) => {
      asked.push(`${request.headers.host} ${request.url} ${request.headers.authorization ?? 'nobody'}`);
      const answer = answers[request.url ?? ''];
      return answer === undefined ? response.end('here') : answer(response);
    });
    await new Promise<void>((resolve) => server.listen(0, resolve));
    base = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterEach(() => {
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  });
  const redirect = (location: string) => (response: ServerResponse) => response.writeHead(307, { location }).end();

  test('a redirect is followed, and the token stays where it was for', async () => {
    const other = base.replace('127.0.0.1', 'localhost');
    answers['/a'] = redirect('/b');
    answers['/b'] = redirect(`http://${other}/c`);

    expect(await get(`http://${base}/a`)).toMatchObject({ status: 200, body: Buffer.from('here') });
    expect(asked).toEqual([`${base} /a Bearer t`, `${base} /b Bearer t`, `${other} /c nobody`]);
  });

  test.each([
    ['https://10.0.0.1/x', 'is at 10.0.0.1, where nothing is asked'],
    ['https://172.31.255.255/x', 'where nothing is asked'],
    ['https://[fd00:ec2::254]/x', 'where nothing is asked'],
    ['https://169.254.169.254/latest/meta-data', 'where nothing is asked'],
    ['https://127.0.0.1:1/x', 'where nothing is asked'],
    ['https://2130706433:1/x', 'is at 127.0.0.1'],
    ['https://cluster.example/x', 'is at 10.96.0.1, where nothing is asked'],
    ['https://partly.example/x', 'is at 192.168.1.1'],
    ['https://rebound.example/x', 'is at ::ffff:127.0.0.1'],
    ['https://translated.example/x', 'is at 64:ff9b::a9fe:a9fe'],
    ['https://nowhere.example/x', 'has no address'],
    ['http://198.51.100.7/x', 'would be asked without TLS'],
    ['https://me:secret@198.51.100.7/x', 'with credentials'],
    ['ftp://198.51.100.7/x', 'is sent to ftp:'],
    ['https://', 'redirects to nowhere'],
  ])('a redirect to %s is not followed', async (location, says) => {
    answers['/a'] = redirect(location);

    await expect(get(`http://${base}/a`, [base])).rejects.toThrow(says);
    expect(asked).toHaveLength(1);
  });

  test('redirects end', async () => {
    answers['/a'] = redirect('/a');

    await expect(get(`http://${base}/a`)).rejects.toThrow('redirects more than 3 times');
    expect(asked).toHaveLength(4);
  });

  test('nobody is led from TLS to where there is none', async () => {
    const authority = await anAuthority();
    const secure = createSecureServer(await authority.issue({ name: 'r', hosts: ['127.0.0.1'] }), (_, response) =>
      redirect(`http://${base}/x`)(response),
    );
    await new Promise<void>((resolve) => secure.listen(0, '127.0.0.1', resolve));
    const trusted = getCACertificates('default');
    setDefaultCACertificates([...trusted, authority.cert]);
    try {
      await expect(get(`https://127.0.0.1:${(secure.address() as AddressInfo).port}/a`)).rejects.toThrow(`redirects to http://${base}`);
      expect(asked).toEqual([]);
    } finally {
      setDefaultCACertificates(trusted);
      secure.closeAllConnections();
      await new Promise<void>((resolve) => secure.close(() => resolve()));
    }
  });

  test.each([
    '169.254.169.254',
    '127.0.0.1:7070',
    '[::1]:7070',
    'rebound.example',
  ])('an image of %s is not asked for: there is no registry, but perhaps something else', async (host) => {
    const registry = new Registry({ plain: [], resolve: async (name) => NAMES[name] ?? [], architecture: 'amd64' });

    await expect(registry.find(`${host}/shop/web`, AbortSignal.timeout(5_000))).rejects.toThrow('where nothing is asked');
  });

  test('so many images are asked for at once, and the others wait', async () => {
    const held: ServerResponse[] = [];
    for (let i = 0; i < 20; i++) answers[`/v2/shop/web${i}/manifests/latest`] = (response) => held.push(response);
    const registry = new Registry({ plain: ['127.0.0.0/8'], resolve: async () => [], architecture: 'amd64' });

    const finding = Array.from({ length: 20 }, (_, i) => registry.find(`${base}/shop/web${i}`, AbortSignal.timeout(5_000)));
    const settled = Promise.allSettled(finding);
    await expect.poll(() => held.length).toBe(16);
    for (const response of held) response.writeHead(404).end();
    await expect.poll(() => held.length).toBe(20);
    for (const response of held.slice(16)) response.writeHead(404).end();

    expect((await settled).map(({ status }) => status)).toEqual(Array(20).fill('rejected'));
  });
});
