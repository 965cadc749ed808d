import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Container } from '../../src/workloads/host.ts';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { get, TestEngine } from '../fixtures/engine.ts';
import { hostWorkload } from '../fixtures/survive/workloads.ts';

const ROOT = join(import.meta.dirname, '../..');

let engine: TestEngine;
let dir: string;

beforeAll(async () => {
  engine = await TestEngine.open();
  // Readable by servers that run as users of their own.
  dir = await mkdtemp(join(tmpdir(), 'rekindle-servers-'));
  await chmod(dir, 0o755);
});
afterAll(async () => {
  await engine[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

/** A seed and two clones of it, all alive. */
async function family(workload: WorkloadSpec): Promise<[Container, Container, Container]> {
  const { container: seed } = await engine.seed(workload, `${workload.name}-seed`);
  const [one, two] = await Promise.all([engine.clone(workload, `${workload.name}-1`), engine.clone(workload, `${workload.name}-2`)]);
  return [seed, one, two];
}

/** A file that containers see, below a folder of these tests. */
async function file(name: string, content: string): Promise<string> {
  const path = join(dir, name);
  await writeFile(path, content);
  return path;
}

/** A shell command in the container, with its rights; its output. Throws unless it ends with 0. */
async function run(container: Container, script: string): Promise<string> {
  const { status, output } = await engine.engine.host.exec(container, ['/bin/sh', '-c', script], {
    timeoutMs: 20_000,
    signal: AbortSignal.timeout(20_000),
  });
  if (status !== 0) throw new Error(`${container.name}: ${script}: ${status}: ${output}`);
  return output.trim();
}

/** Sends one line or more to a port of the container and returns the answer as far as its first `until`. */
function talk(container: Container, port: number, send: string, until: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = connect({ host: container.addresses[0] ?? '', port });
  let answer = '';
  socket.setTimeout(5_000, () => socket.destroy(new Error(`${container.name}:${port} does not answer ${JSON.stringify(send)}`)));
  socket.on('data', (data) => {
    answer += data.toString();
    if (answer.includes(until)) socket.end(() => resolve(answer));
  });
  socket.on('error', reject);
  socket.write(send);
  return promise;
}

test('nginx with its workers under a user of their own', async () => {
  const config = await file(
    'nginx.conf',
    `user www-data; worker_processes 2; daemon off; error_log stderr; pid /run/nginx-test.pid;
events { worker_connections 64; }
http { access_log off; server { listen 8080; listen [::]:8080;
  location / { return 200 "$hostname $server_addr worker $pid\\n"; }
  location /etc/ { alias /etc/; }
} }\n`,
  );
  const workload = hostWorkload(
    'nginx',
    ['/usr/sbin/nginx', '-c', config],
    '      ports: [8080]\n      readiness: { http: { port: 8080 } }\n',
  );

  const instances = await family(workload);

  for (const container of instances) {
    expect(await get(container)).toMatch(new RegExp(`${container.addresses[0]} worker \\d+\n$`));
    expect(await get(container, '/etc/hostname')).toBe(`${container.name}\n`);
    expect(await run(container, 'ps -o user= -C nginx | sort | uniq -c')).toMatch(/^1 root\s+2 www-data$/);
  }
});

for (const persistence of ['no', 'yes'] as const) {
  test(`redis with data, appendonly ${persistence}`, async () => {
    const command = [
      '/usr/bin/redis-server',
      '--port',
      '8080',
      '--protected-mode',
      'no',
      '--dir',
      '/data',
      '--appendonly',
      persistence,
      '--save',
      '',
      '--enable-debug-command',
      'local',
    ];
    const workload = hostWorkload(
      `redis-${persistence}`,
      command,
      `      ports: [8080]
      volumes: [{ at: /data, private: disk }]
      readiness: { command: redis-cli -p 8080 ping | grep -q PONG, periodSeconds: 0.1 }
      warmup: redis-cli -p 8080 SET color blue
`,
    );

    const instances = await family(workload);
    for (const container of instances) expect(await talk(container, 8080, 'GET color\r\n', 'blue')).toBe('$4\r\nblue\r\n');
    for (const container of instances) await talk(container, 8080, `SET color ${container.name}\r\n`, 'OK');

    for (const container of instances) {
      expect(await run(container, 'redis-cli -p 8080 GET color')).toBe(container.name);
      if (persistence === 'no') continue;
      // What it wrote is its own, and is there after it has read it all again.
      expect(await run(container, 'redis-cli -p 8080 DEBUG LOADAOF; redis-cli -p 8080 GET color')).toBe(`OK\n${container.name}`);
    }
  });
}

test('memcached', async () => {
  const workload = hostWorkload(
    'memcached',
    ['/usr/bin/memcached', '-u', 'memcache', '-p', '8080', '-t', '2'],
    `      ports: [8080]
      warmup: bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080; printf "set color 0 0 4\\r\\nblue\\r\\nquit\\r\\n" >&3; grep STORED <&3'
`,
  );

  const instances = await family(workload);

  for (const container of instances) expect(await talk(container, 8080, 'get color\r\n', 'END')).toBe('VALUE color 0 4\r\nblue\r\nEND\r\n');
});

test('gunicorn with three workers', async () => {
  await file(
    'counting.py',
    `import os, socket
count = 0
def app(environ, start_response):
    global count
    count += 1
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"{socket.gethostname()} {os.getpid()} {count}".encode()]
`,
  );
  const python = join(ROOT, 'images/samples/python/.venv/bin/python');
  const workload = hostWorkload(
    'gunicorn',
    [python, '-m', 'gunicorn', '--workers', '3', '--bind', '0.0.0.0:8080', '--chdir', dir, '--no-control-socket', 'counting:app'],
    `      ports: [8080]
      readiness: { http: { port: 8080 } }
      warmup: { request: { port: 8080 }, count: 30, concurrency: 6 }
`,
  );

  const instances = await family(workload);

  const seen: Set<string>[] = [];
  for (const container of instances) {
    const answers = (await Promise.all(Array.from({ length: 60 }, () => get(container)))).map((answer) => answer.split(' '));
    expect(new Set(answers.map(([host]) => host))).toEqual(new Set([container.name]));
    expect(Math.max(...answers.map(([, , count]) => Number(count)))).toBeGreaterThan(10);
    seen.push(new Set(answers.map(([, pid]) => pid ?? '')));
  }
  // Each has the workers of the seed, not ones that its master had to start again.
  expect(seen.reduce((all, some) => all.union(some)).size).toBe(3);
});

test('Node with cluster', async () => {
  const script = await file(
    'cluster.mjs',
    `import cluster from 'node:cluster'; import http from 'node:http'; import os from 'node:os';
if (cluster.isPrimary) { cluster.fork(); cluster.fork(); cluster.on('exit', () => process.exit(3)); }
else { let n = 0; http.createServer((q, r) => r.end(os.hostname() + ' ' + cluster.worker.id + ' ' + n++)).listen(8080); }
`,
  );
  const workload = hostWorkload(
    'cluster',
    [join(ROOT, '.build/node'), script],
    `      ports: [8080]
      readiness: { http: { port: 8080 } }
      warmup: { request: { port: 8080, headers: { connection: close } }, count: 20, concurrency: 2 }
`,
  );

  const instances = await family(workload);

  for (const container of instances) {
    const answers: string[] = [];
    for (let i = 0; i < 10; i++)
      answers.push(await (await fetch(`http://${container.addresses[0]}:8080/`, { headers: { connection: 'close' } })).text());
    expect(new Set(answers.map((answer) => answer.split(' ')[0]))).toEqual(new Set([container.name]));
    expect(new Set(answers.map((answer) => answer.split(' ')[1]))).toEqual(new Set(['1', '2']));
    // Each worker remembers its requests of before the checkpoint, however these were shared: one that began anew would say 0.
    expect(Math.min(...answers.map((answer) => Number(answer.split(' ')[2])))).toBeGreaterThan(0);
  }
});

test('ruby', async () => {
  const script = await file(
    'server.rb',
    `require 'socket'; require 'securerandom'
n = 0
server = TCPServer.new('0.0.0.0', 8080)
loop do
  Thread.new(server.accept) do |client|
    client.gets
    body = "#{Socket.gethostname} #{n += 1} #{SecureRandom.hex(8)}"
    client.write "HTTP/1.1 200 OK\\r\\ncontent-length: #{body.bytesize}\\r\\nconnection: close\\r\\n\\r\\n#{body}"
    client.close
  end
end
`,
  );
  const workload = hostWorkload(
    'ruby',
    ['/usr/bin/ruby', script],
    `      ports: [8080]
      readiness: { http: { port: 8080 } }
      warmup: { request: { port: 8080 }, count: 10 }
`,
  );

  const instances = await family(workload);

  const answers = await Promise.all(instances.map((container) => get(container)));
  expect(answers.map((answer) => answer.split(' ')[0])).toEqual(instances.map(({ name }) => name));
  for (const answer of answers) expect(Number(answer.split(' ')[1])).toBeGreaterThan(10);
  expect(new Set(answers.map((answer) => answer.split(' ')[2])).size).toBe(3);
});

test('PostgreSQL with a table', async () => {
  const bin = '/usr/lib/postgresql/15/bin';
  const script = await file(
    'postgres.sh',
    `[ -s /pgdata/data/PG_VERSION ] || ${bin}/initdb --no-sync --auth=trust -D /pgdata/data >/dev/null || exit 1
exec ${bin}/postgres -D /pgdata/data -p 8080 -h '*' -k /pgdata -c fsync=off
`,
  );
  const psql = (sql: string) => `${bin}/psql -qAt -h /pgdata -p 8080 -U postgres -c "${sql}" postgres`;
  const workload = hostWorkload(
    'postgres',
    ['/bin/sh', script],
    `      user: postgres
      ports: [8080]
      volumes: [{ at: /pgdata, private: disk }]
      readiness: { command: '${bin}/pg_isready -q -h /pgdata -p 8080', periodSeconds: 0.2 }
      warmup: ${JSON.stringify(psql("create table fruit (name text); insert into fruit values ('apple'), ('pear')"))}
`,
  );

  const instances = await family(workload);
  for (const container of instances) expect(await run(container, psql('select name from fruit order by 1'))).toBe('apple\npear');
  for (const container of instances) await run(container, psql(`insert into fruit values ('${container.name}')`));

  for (const container of instances) {
    expect(await run(container, psql(`checkpoint; select name from fruit order by 1`))).toBe(`apple\npear\n${container.name}`);
  }
});

test('a Spring Boot service', async () => {
  const workload = hostWorkload(
    'spring',
    [join(ROOT, 'images/samples/java/start')],
    `      memoryMiB: 768
      ports: [8080]
      readiness: { http: { path: /healthz, port: 8080 }, periodSeconds: 0.2 }
      warmup: { request: { path: '/warm?n=100', port: 8080 }, count: 3 }
`,
  );

  const instances = await family(workload);

  for (const container of instances) {
    const answer: unknown = JSON.parse(await get(container));
    expect(answer).toMatchObject({ host: container.name, warmed: 3 });
  }
});
