import { Resolver } from 'node:dns/promises';
import { Agent as HttpAgent, type IncomingHttpHeaders, type IncomingMessage, request as requestHttp } from 'node:http';
import { Agent as HttpsAgent, request as requestHttps } from 'node:https';
import { BlockList, isIP, type LookupFunction } from 'node:net';

export type RegistryHttpOptions = {
  /** Registries that are asked without TLS: hosts with or without port, or networks as `10.0.0.0/8`. They may be anywhere. */
  readonly plain: readonly string[];
  /** The addresses of a name; rejects when it has none. */
  readonly resolve: (name: string, signal: AbortSignal) => Promise<readonly string[]>;
};

export type RegistryAnswer = { readonly status: number; readonly headers: IncomingHttpHeaders; readonly body: Buffer };

/** Manifests and configurations are a few kilobytes. */
const MAX_BYTES = 1024 * 1024;
/** A registry sends to where it keeps its blobs, and that is all. */
const MAX_REDIRECTS = 3;
const REDIRECTS = [301, 302, 303, 307, 308];

/** Addresses at which no registry is, but what answers whoever is inside: this pod itself, the metadata of clouds. */
const NEVER = networks(['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3', '::/96', 'fe80::/10', 'ff00::/8']);
/** And those that are inside, where a registry of one's own may be. Of IPv6 also what leads to IPv4 by another name. */
const PRIVATE = networks([
  ...['10.0.0.0/8', '100.64.0.0/10', '172.16.0.0/12', '192.0.0.0/24', '192.168.0.0/16', '198.18.0.0/15'],
  ...['fc00::/7', 'fec0::/10', '64:ff9b:1::/48', '2002::/16'],
]);

/**
 * Asks for what the name of an image leads to. Whoever may make a pod chooses that name, and so the registry, and that where it sends to: from inside of the
 * cluster, where others than registries answer. So nothing is asked at addresses of this machine and its link, nothing but the named registry at private
 * ones, nothing without TLS that is not listed; answers, redirects and names have bounds. No credentials are ever sent but the token that a registry gave.
 */
export class RegistryHttp {
  readonly #resolve: RegistryHttpOptions['resolve'];
  readonly #isListed: (host: string) => boolean;

  constructor({ plain, resolve }: RegistryHttpOptions) {
    this.#resolve = resolve;
    this.#isListed = listed(plain);
  }

  isPlain(host: string): boolean {
    return this.#isListed(host);
  }

  /** For one image; `host` is the registry that its name says. Connections are kept until this is disposed. */
  open(host: string): RegistrySession {
    return new RegistrySession(this.#resolve, this.#isListed, host);
  }
}

export class RegistrySession implements Disposable {
  readonly #resolve: RegistryHttpOptions['resolve'];
  readonly #isListed: (host: string) => boolean;
  readonly #home: string;
  // Not those that others share: who may be connected to differs.
  readonly #agents = { http: new HttpAgent({ keepAlive: true }), https: new HttpsAgent({ keepAlive: true }) };

  constructor(resolve: RegistryHttpOptions['resolve'], isListed: (host: string) => boolean, home: string) {
    this.#resolve = resolve;
    this.#isListed = isListed;
    this.#home = home;
  }

  /** GET, following redirects; headers go to the first place only. Rejects with why not. */
  async get(url: URL, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<RegistryAnswer> {
    let at = url;
    for (let redirects = 0; ; redirects += 1) {
      const answer = await this.#ask(at, at.origin === url.origin ? headers : {}, signal);
      if (!REDIRECTS.includes(answer.status)) return answer;
      const { location } = answer.headers;
      if (redirects === MAX_REDIRECTS) throw new Error(`${url.host} redirects more than ${MAX_REDIRECTS} times`);
      if (location === undefined || !URL.canParse(location, at.href)) throw new Error(`${at.host} redirects to nowhere`);
      const next = new URL(location, at);
      if (at.protocol === 'https:' && next.protocol !== 'https:') throw new Error(`${at.host} redirects to ${next.protocol}//${next.host}`);
      at = next;
    }
  }

  [Symbol.dispose](): void {
    for (const agent of Object.values(this.#agents)) agent.destroy();
  }

  async #ask(url: URL, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<RegistryAnswer> {
    const isPlain = url.protocol === 'http:';
    if (!isPlain && url.protocol !== 'https:') throw new Error(`it is sent to ${url.protocol}`);
    if (url.username !== '' || url.password !== '') throw new Error(`it is sent to ${url.host} with credentials`);
    if (isPlain && !this.#isListed(url.host)) throw new Error(`${url.host} would be asked without TLS`);
    const lookup = await this.#lookupOf(url, signal);
    const options = { headers, signal, ...(lookup === undefined ? {} : { lookup }) };
    const { http, https } = this.#agents;
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      const request = isPlain ? requestHttp(url, { ...options, agent: http }) : requestHttps(url, { ...options, agent: https });
      request.on('response', resolve).on('error', reject).end();
    });
    return { status: answer.statusCode ?? 0, headers: answer.headers, body: await bodyOf(answer) };
  }

  /** What the connection takes for an answer to the name, so that it goes where was looked; undefined: the system's. Throws for where nothing is to be asked. */
  async #lookupOf({ host, hostname }: URL, signal: AbortSignal): Promise<LookupFunction | undefined> {
    if (this.#isListed(host)) return undefined;
    const name = hostname.replace(/^\[|\]$/g, '');
    const addresses = isIP(name) === 0 ? await this.#resolve(name, signal) : [name];
    const isHome = host === this.#home;
    const forbidden = addresses.find((address) => contains(NEVER, address) || (!isHome && contains(PRIVATE, address)));
    if (forbidden !== undefined) throw new Error(`${host} is at ${forbidden}, where nothing is asked`);
    const found = addresses.map((address) => ({ address, family: isIP(address) }));
    const [first] = found;
    if (first === undefined) throw new Error(`${host} has no address`);
    return (_name, { all }, done) => (all ? done(null, found) : done(null, first.address, first.family));
  }
}

/**
 * The addresses of a name, IPv4 first, asked of the name servers. Not by `lookup`, which has one of few threads for as long as a name server takes, and those
 * that answer for a name are chosen by whoever chose it.
 */
export async function resolveName(name: string, signal: AbortSignal): Promise<readonly string[]> {
  signal.throwIfAborted();
  const resolver = new Resolver({ tries: 1 });
  const cancel = () => resolver.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  try {
    const found = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    signal.throwIfAborted();
    const addresses = found.flatMap((one) => (one.status === 'fulfilled' ? one.value : []));
    if (addresses.length === 0) throw new Error(`${name} has no address`);
    return addresses;
  } finally {
    signal.removeEventListener('abort', cancel);
  }
}

async function bodyOf(answer: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of answer) {
    const bytes: Buffer = chunk;
    size += bytes.length;
    // Leaving the loop ends the connection.
    if (size > MAX_BYTES) throw new Error(`an answer has more than ${MAX_BYTES} bytes`);
    chunks.push(bytes);
  }
  return Buffer.concat(chunks);
}

function networks(subnets: readonly string[]): BlockList {
  const list = new BlockList();
  for (const subnet of subnets) {
    const [address = '', bits] = subnet.split('/');
    if (isIP(address) === 6) list.addSubnet(address, Number(bits), 'ipv6');
    else {
      list.addSubnet(address, Number(bits), 'ipv4');
      // What NAT64 makes of it (RFC 6052).
      list.addSubnet(`64:ff9b::${address}`, 96 + Number(bits), 'ipv6');
    }
  }
  return list;
}

/** Also of an IPv4 address that is written as one of IPv6. */
function contains(list: BlockList, address: string): boolean {
  const family = isIP(address);
  return family === 0 || list.check(address, family === 6 ? 'ipv6' : 'ipv4');
}

function listed(entries: readonly string[]): (host: string) => boolean {
  const within = networks(entries.filter((entry) => entry.includes('/')));
  return (host) => {
    const name = host.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
    return entries.includes(host) || entries.includes(name) || (isIP(name) !== 0 && contains(within, name));
  };
}
