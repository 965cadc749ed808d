import { isIP } from 'node:net';
import { InvalidArgumentError } from 'commander';

/** Where a server listens. Port 0: a free one. */
export type Listen = { readonly host: string; readonly port: number };

/** Reads `PORT`, `HOST:PORT` or `[IPv6]:PORT`; without a host it is loopback. Throws commander's InvalidArgumentError. */
export function parseListen(text: string): Listen {
  const [, bracketed, plain, port] = /^(?:(?:\[([^\]]+)\]|([^:[\]]+)):)?(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain ?? '127.0.0.1';
  const fine = port !== undefined && Number(port) <= 65_535 && (isIP(host) !== 0 || host === 'localhost');
  if (!fine) throw new InvalidArgumentError('Give PORT, ADDRESS:PORT or [ADDRESS]:PORT, e.g. 127.0.0.1:7070.');
  return { host: host === 'localhost' ? '127.0.0.1' : host, port: Number(port) };
}

/** What {@link parseListen} reads. */
export function listenText({ host, port }: Listen): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
