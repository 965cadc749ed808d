import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RekindleError } from '../../../src/lib/errors.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';

function problemsIn(text: string): string {
  try {
    parseRekindleFile(text, 'rekindle.yaml', '/project');
  } catch (error) {
    if (error instanceof RekindleError && error.code === 'config_invalid') return error.message;
    throw error;
  }
  return '';
}

/** A file with one workload `web`, whose container has these further lines. */
const web = (...lines: string[]) =>
  ['workloads:', '  web:', '    container:', '      image: docker://nginx', ...lines.map((line) => `      ${line}`)].join('\n');

describe('a file that is right', () => {
  test('gets every default, nested ones too', () => {
    const [spec] = parseRekindleFile(
      web('readiness: {http: {port: 80}}', 'warmup: [{request: {port: 80}, count: 3}]'),
      'rekindle.yaml',
      '/project',
    );

    expect(spec).toMatchObject({
      name: 'web',
      container: {
        env: {},
        instanceEnv: {},
        volumes: [],
        ports: [],
        noNewPrivileges: true,
        seccomp: 'default',
        readiness: {
          http: { port: 80, path: '/' },
          initialDelaySeconds: 0,
          periodSeconds: 1,
          timeoutSeconds: 1,
          successThreshold: 1,
          failureThreshold: 300,
        },
        warmup: [{ request: { method: 'GET', path: '/', port: 80 }, count: 3, concurrency: 1, timeoutSeconds: 60 }],
      },
      checkpoint: { verify: 'trial', allowSharedRandom: false, keep: 3, deadlineSeconds: 120 },
      restore: { identityFile: '/tmp/rekindle-identity', mergeMemory: false, deadlineSeconds: 10 },
    });
  });

  test('keeps the order of its workloads, and names that objects have anyway', () => {
    const one = '{container: {image: "docker://x", env: {constructor: a, toString: b}}}';

    const specs = parseRekindleFile(`workloads: {zeta: ${one}, constructor: ${one}, alpha: ${one}}`, 'rekindle.yaml');

    expect(specs.map((spec) => spec.name)).toEqual(['zeta', 'constructor', 'alpha']);
    expect(specs[1]?.container.env).toEqual({ constructor: 'a', toString: 'b' });
  });

  test.each([
    ['oci:images/web:v1', 'oci:/project/images/web:v1'],
    ['oci-archive:./web.tar', 'oci-archive:/project/web.tar'],
    ['docker-archive:/abs/web.tar:web:1', 'docker-archive:/abs/web.tar:web:1'],
    ['docker://docker.io/library/nginx:1', 'docker://docker.io/library/nginx:1'],
  ])('finds image %s from its own directory', (image, absolute) => {
    const [spec] = parseRekindleFile(`workloads: {web: {container: {image: "${image}"}}}`, 'rekindle.yaml', '/project');

    expect(spec?.container.image).toBe(absolute);
  });

  test('mounts outer volumes before inner ones, from its own directory', () => {
    const [spec] = parseRekindleFile(web('volumes: [{at: /a/b, from: conf}, {at: /a, private: memory}]'), '/elsewhere/rekindle.yaml');

    expect(spec?.container.volumes).toEqual([
      { at: '/a', private: 'memory' },
      { at: '/a/b', from: '/elsewhere/conf', readOnly: false },
    ]);
  });

  test('may share parts by anchors and merge keys', () => {
    const text = `workloads:\n  a: &a\n    container: {image: "docker://x"}\n  b:\n    <<: *a\n    checkpoint: {keep: 1}\n`;

    const specs = parseRekindleFile(text, 'rekindle.yaml');

    expect(specs[1]).toMatchObject({ container: { image: 'docker://x' }, checkpoint: { keep: 1 } });
  });
});

describe('a file that is wrong', () => {
  test.each([
    [
      'a misspelt key',
      web('readines: true'),
      'rekindle.yaml:5:7: workloads.web.container.readines is not a known key; did you mean `readiness`?',
    ],
    [
      'a misspelt probe',
      web('readiness: {htp: {port: 1}}'),
      '5:19: workloads.web.container.readiness.htp is not a known key; did you mean `http`?',
    ],
    [
      'two kinds of probe',
      web('readiness: {tcp: {port: 1}, command: x}'),
      'workloads.web.container.readiness has `tcp` and `command`: give exactly one of `command`, `http`, `tcp` and `grpc`',
    ],
    [
      'no kind of probe',
      web('readiness: {periodSeconds: 1}'),
      '5:7: workloads.web.container.readiness needs one of `command`, `http`, `tcp` and `grpc`',
    ],
    [
      'a probe without a port',
      web('readiness: {http: {path: /x}}'),
      'workloads.web.container.readiness.http lacks `port` (port number inside the container)',
    ],
    ['a port out of range', web('readiness: {tcp: {port: 70000}}'), 'is 70000, but must be a whole number from 1 to 65535'],
    [
      'a port that is not listed',
      web('ports: [80]', 'readiness: {tcp: {port: 81}}'),
      '6:31: workloads.web.container.readiness.tcp.port is 81, but container.ports has only 80',
    ],
    ['a probe of the wrong kind', web('readiness: 5'), 'workloads.web.container.readiness is 5, but must be a text (a shell command'],
    ['a time of zero', web('readiness: {command: x, timeoutSeconds: 0}'), 'is 0, but must be a number above 0'],
    [
      'a number where text is wanted',
      web('env: {PORT: 8080}'),
      'workloads.web.container.env.PORT is 8080, but must be a text: put it in quotes, "8080"',
    ],
    ['text where a number is wanted', web('memoryMiB: "64"'), 'write it without quotes, 64'],
    ['a single value where a list is wanted', web('ports: 80'), 'write [80]'],
    ['a misspelt choice', web('seccomp: unconfind'), 'must be one of `default` and `unconfined`; did you mean `unconfined`?'],
    ['an empty section', `${web()}\n    restore:`, 'workloads.web.restore is empty, but must be a mapping'],
    ['a reserved variable', web('env: {REKINDLE_AGENT: x}'), '5:13: workloads.web.container.env.REKINDLE_AGENT is set by rekindle itself'],
    ['a variable given twice', web('env: {A: x}', 'instanceEnv: {A: name}'), 'workloads.web.container.instanceEnv.A is in `env` too'],
    ['a key given twice', web('env: {A: x, A: y}'), '5:19: the file says this key twice'],
    [
      'two volumes in one place',
      web('volumes: [{at: /a, private: disk}, {at: /a, private: disk}]'),
      'workloads.web.container.volumes[1].at is /a, where volumes[0] is mounted already',
    ],
    ['a volume over /proc', web('volumes: [{at: /proc/sys, private: disk}]'), '/proc and what is below belongs to the system'],
    ['a volume over our files', web('volumes: [{at: /rekindle, private: disk}]'), '/rekindle and what is below belongs to the system'],
    ['a path with dots', web('volumes: [{at: /a/../proc, private: disk}]'), 'write it as /proc'],
    ['a volume of no kind', web('volumes: [{at: /a}]'), 'workloads.web.container.volumes[0] needs one of `private` and `from`'],
    ['an image without a transport', web().replace('docker://', ''), 'is "nginx": must begin with one of docker://'],
    ['image and rootfs', web('rootfs: host', 'command: [x]'), 'workloads.web.container has both `image` and `rootfs`'],
    ['neither image nor rootfs', 'workloads: {web: {container: {}}}', 'workloads.web.container needs `image`'],
    ['rootfs without a command', 'workloads: {web: {container: {rootfs: host}}}', 'needs `command` beside it'],
    ['a checkpoint directory that leaves its own', `${web()}\n    checkpoint: {directory: ../x}`, 'without `..`'],
    ['an identity file nobody can write', `${web('readOnlyRoot: true')}\n    restore: {identity: file}`, 'put it on a `private` volume'],
    ['a bad workload name', 'workloads: {Web: {container: {image: "docker://x"}}}', '1:13: workloads.Web is not a name of a workload'],
    ['no workloads', 'workloads: {}', 'workloads is empty: give at least one entry'],
    ['an empty file', '', 'rekindle.yaml:1:1: the file is empty, but must be a mapping'],
    ['broken YAML', 'workloads: [', 'rekindle.yaml:1:'],
    ['an alias of nothing', 'workloads: *x', 'rekindle.yaml'],
    ['a tag', 'workloads: !foo {}', 'Unresolved tag'],
    ['two documents', 'a: 1\n---\nb: 2', 'holds several documents'],
    ['a NUL in a command', web('command: ["a\\0b"]'), 'NUL'],
  ])('with %s is told where, what and what to do', (_what, text, sentence) => {
    const message = problemsIn(text);

    expect(message).toContain(sentence);
  });

  test('is told all its problems at once, in the order of the file', () => {
    const message = problemsIn(`${web('ports: 80', 'cpus: -1', 'env: {A: 1}')}\n  b: {container: {rootfs: host}}`);

    expect(message.split('\n')).toHaveLength(5);
    expect(message).toMatch(/has 4 problems:\n.*:5:14: .*\n.*:6:13: .*\n.*:7:16: .*\n.*:8:/);
  });

  test('is told of two checkpoints with one name', () => {
    const one = '{container: {image: "docker://x"}, checkpoint: {name: c, directory: d}}';

    expect(problemsIn(`workloads: {a: ${one}, b: ${one}}`)).toContain(
      'workloads.b.checkpoint.name d/c is already the checkpoint of workload a',
    );
  });

  test('never causes anything but a config_invalid, whatever it holds', () => {
    const key = fc.constantFrom(
      'workloads',
      'web',
      'container',
      'image',
      'env',
      'readiness',
      'http',
      'port',
      'warmup',
      'volumes',
      'at',
      'from',
      '__proto__',
      'constructor',
      '<<',
    );
    const values = [fc.string(), fc.double(), fc.constantFrom(null, true, 80, '/x', 'docker://x')];
    const tree = fc.object({ key: fc.oneof({ weight: 5, arbitrary: key }, fc.string()), values, maxDepth: 6, withNullPrototype: false });
    const text = fc.oneof(
      fc.string(),
      tree.map((value) => JSON.stringify(value)),
      tree.map((value) => `workloads: {web: {container: ${JSON.stringify(value)}}}`),
    );

    fc.assert(
      fc.property(text, (input) => void problemsIn(input)),
      { numRuns: 1_000 },
    );
    problemsIn('['.repeat(20_000));
  });
});
