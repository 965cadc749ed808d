// What the gateway costs a request whose instance is ready: added latency, and throughput against nginx, in front of the same service.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { exec, mustExec } from '../../src/lib/exec.ts';
import { loadTest, withRounds } from '../lib/load-test.ts';
import { machineFacts } from '../lib/machine.ts';
import { median, summarize } from '../lib/stats.ts';

const ROUNDS = 7;
const CONNECTIONS = 32;
const ONE_BY_ONE_MS = 700;
const TOGETHER_MS = 1_500;
const WARM_UP_MS = 3_000;

const { options, report } = loadTest<{ rounds: number }>(import.meta.dirname, withRounds(ROUNDS));
const dir = await mkdtemp(join(tmpdir(), 'rekindle-load-'));
const started: ChildProcess[] = [];
try {
  const service = await start('service.ts');
  const contenders = [
    { name: 'direct', port: service, path: '/' },
    { name: 'nginx', port: await startNginx(service), path: '/invoke/demo/' },
    { name: 'rekindle gateway', port: await start('contender.ts', service), path: '/invoke/demo/' },
  ];
  // Until what is compiled while it runs has been compiled.
  for (const one of contenders) await ask(one, CONNECTIONS, WARM_UP_MS);
  const alone = contenders.map((): number[][] => []);
  const together = contenders.map((): number[][] => []);
  for (let round = 0; round < options.rounds; round++) {
    // In turn, so that what else the machine does meets all alike.
    for (const [i, one] of contenders.entries()) {
      alone[i]?.push(await ask(one, 1, ONE_BY_ONE_MS));
      together[i]?.push(await ask(one, CONNECTIONS, TOGETHER_MS));
    }
  }

  report.header('one request after the other, on one connection');
  for (const [i, { name }] of contenders.entries()) report.times(name, summarize((alone[i] ?? []).flat().map((us) => us / 1000)));
  report.header(`on ${CONNECTIONS} connections`);
  for (const [i, { name }] of contenders.entries()) report.times(name, summarize((together[i] ?? []).flat().map((us) => us / 1000)));
  report.say();
  const perSecond = together.map((rounds) => rounds.map((times) => (times.length * 1000) / TOGETHER_MS));
  for (const [i, { name }] of contenders.entries()) report.say(`  ${name}: ${Math.round(median(perSecond[i] ?? []))} requests per second`);
  const [direct, nginx, ours] = alone.map((rounds) => rounds.map((times) => median(times) / 1000));
  const added = (of: readonly number[]) => median(of.map((ms, round) => ms - (direct?.[round] ?? 0)));
  report.say(`  nginx adds ${added(nginx ?? []).toFixed(3)} ms`);
  report.figure('added latency p50', added(ours ?? []), 1, 'lower', 'ms', 0.5);
  const ratio = median((perSecond[2] ?? []).map((count, round) => count / (perSecond[1]?.[round] ?? Number.NaN)));
  report.figure('throughput against nginx', ratio, 0.4, 'higher', 'x', 0.7);
} finally {
  for (const child of started) child.kill('SIGTERM');
  await Promise.all(started.map((child) => child.exitCode ?? child.signalCode ?? once(child, 'exit')));
  await rm(dir, { recursive: true, force: true });
}
const { stderr } = await exec('nginx', ['-v'], { timeoutMs: 5_000 });
process.exitCode = report.end({ ...(await machineFacts()), nginx: /nginx\/([\d.]+)/.exec(stderr)?.[1] ?? 'unknown' });

/** Microseconds of each answer. */
async function ask({ port, path }: { readonly port: number; readonly path: string }, connections: number, ms: number): Promise<number[]> {
  const args = [join(import.meta.dirname, 'client.ts'), String(port), path, String(connections), String(ms)];
  const { stdout } = await mustExec(exec, process.execPath, args, { timeoutMs: ms + 20_000 });
  const times: unknown = JSON.parse(stdout);
  if (!Array.isArray(times)) throw new Error('the client printed no list');
  return times.map(Number);
}

/** Starts a program of this folder and resolves with the port that it prints. */
async function start(file: string, ...args: readonly number[]): Promise<number> {
  const child = spawn(process.execPath, [join(import.meta.dirname, file), ...args.map(String)], { stdio: ['ignore', 'pipe', 'inherit'] });
  started.push(child);
  for await (const line of createInterface({ input: child.stdout })) if (/^\d+$/.test(line)) return Number(line);
  throw new Error(`${file} ended before it listened`);
}

/** As nginx is set up where throughput matters: a worker per core, connections to the service kept, no log of requests. */
async function startNginx(service: number): Promise<number> {
  const port = await freePort();
  const config = `
    worker_processes auto; daemon off; pid ${dir}/nginx.pid; error_log ${dir}/nginx.log;
    events { worker_connections 1024; }
    http {
      access_log off; keepalive_requests 100000000;
      client_body_temp_path ${dir}/body; proxy_temp_path ${dir}/proxy; fastcgi_temp_path ${dir}/f; uwsgi_temp_path ${dir}/u; scgi_temp_path ${dir}/s;
      upstream service { server 127.0.0.1:${service}; keepalive 128; keepalive_requests 100000000; }
      server {
        listen 127.0.0.1:${port};
        location /invoke/demo/ {
          proxy_pass http://service/; proxy_http_version 1.1; proxy_set_header Connection "";
          proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }
      }
    }`;
  const file = join(dir, 'nginx.conf');
  await writeFile(file, config);
  started.push(spawn('nginx', ['-c', file, '-e', join(dir, 'nginx.log')], { stdio: ['ignore', 'ignore', 'inherit'] }));
  for (let i = 0; i < 100; i++) {
    const { status } = await exec('curl', ['-s', '-o', '/dev/null', `http://127.0.0.1:${port}/invoke/demo/`], { timeoutMs: 5_000 });
    if (status === 0) return port;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error('nginx does not answer');
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
