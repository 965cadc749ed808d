import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';

/** Writes hosts, hostname and resolv.conf of one container into `dir`. A trial container has no name servers: it could not reach them. */
export async function writeEtcFiles(dir: string, container: { name: string; addresses: readonly string[]; trial: boolean }): Promise<void> {
  await mkdir(dir, { recursive: true });
  const hosts = [
    '127.0.0.1\tlocalhost',
    '::1\tlocalhost ip6-localhost ip6-loopback',
    ...container.addresses.map((address) => `${address}\t${container.name}`),
  ];
  const servers = container.trial ? '' : reachableServers(await readFile('/etc/resolv.conf', 'utf8').catch(() => ''));
  await Promise.all([
    writeFile(path.join(dir, 'hosts'), `${hosts.join('\n')}\n`),
    writeFile(path.join(dir, 'hostname'), `${container.name}\n`),
    writeFile(path.join(dir, 'resolv.conf'), servers),
  ]);
}

/** The machine's resolv.conf without servers on its own loopback, which in a container would be the container's. */
function reachableServers(text: string): string {
  return text
    .split('\n')
    .filter((line) => !/^\s*nameserver\s+(127\.|::1\b)/.test(line))
    .join('\n');
}
