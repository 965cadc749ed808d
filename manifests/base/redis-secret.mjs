// Runs before Redis: makes the Secret with its password when there is none, and leaves a configuration with that password for redis-server.
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';

const { REKINDLE_NAMESPACE: namespace, REKINDLE_REDIS: host } = process.env;
const token = readFileSync('/var/run/secrets/kubernetes.io/serviceaccount/token', 'utf8');
const secrets = `https://kubernetes.default.svc/api/v1/namespaces/${namespace}/secrets`;
const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };

const made = randomBytes(32).toString('hex');
const secret = {
  metadata: { name: 'rekindle-redis' },
  stringData: { password: made, url: `redis://:${made}@${host}.${namespace}.svc:6379` },
};
const created = await fetch(secrets, { method: 'POST', headers, body: JSON.stringify(secret) });
// 409: it is there since an earlier start.
if (!created.ok && created.status !== 409) throw new Error(`could not make the Secret: ${created.status} ${await created.text()}`);

const found = await fetch(`${secrets}/rekindle-redis`, { headers });
if (!found.ok) throw new Error(`could not read the Secret: ${found.status} ${await found.text()}`);
const { data } = await found.json();
const password = Buffer.from(data.password, 'base64').toString();
const settings = { requirepass: password, save: '""', appendonly: 'no', 'maxmemory-policy': 'noeviction', dir: '/tmp', loglevel: 'notice' };
const lines = Object.entries(settings).map(([name, value]) => `${name} ${value}\n`);
writeFileSync('/config/redis.conf', lines.join(''), { mode: 0o400 });
