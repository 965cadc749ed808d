import { createHash } from 'node:crypto';
import { BlockList, isIP } from 'node:net';
import { type Static, type TSchema, Type } from 'typebox';
import { Value } from 'typebox/value';
import { RekindleError } from '../lib/errors.ts';
import { type ImageReference, parseReference } from './image-reference.ts';

export type RegistryOptions = {
  /** Registries that are asked without TLS: hosts with or without port, or networks as `10.0.0.0/8`. */
  readonly plain: readonly string[];
  readonly architecture: string;
};

/** What an image runs, and the digest of the configuration that says so. */
export type RegistryImage = { readonly digest: string; readonly entrypoint: readonly string[]; readonly cmd: readonly string[] };

/** Manifests and configurations are a few kilobytes. */
const MAX_BYTES = 4 * 1024 * 1024;
const MANIFESTS = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
].join(', ');

const Digest = Type.String({ pattern: '^sha256:[0-9a-f]{64}$' });
const Manifest = Type.Object({ config: Type.Object({ digest: Digest }) });
const Index = Type.Object({
  manifests: Type.Array(
    Type.Object({ digest: Digest, platform: Type.Optional(Type.Object({ os: Type.String(), architecture: Type.String() })) }),
  ),
});
const Command = Type.Optional(Type.Union([Type.Array(Type.String()), Type.Null()]));
const Configuration = Type.Object({ config: Type.Optional(Type.Union([Type.Object({ Entrypoint: Command, Cmd: Command }), Type.Null()])) });
const Token = Type.Object({ token: Type.Optional(Type.String()), access_token: Type.Optional(Type.String()) });

/** Asks image registries what an image runs (OCI distribution 1.1), as anybody may: without credentials. */
export class Registry {
  readonly #options: RegistryOptions;
  readonly #isPlain: (host: string) => boolean;

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.#isPlain = plainHosts(options.plain);
  }

  /** Throws `image_unavailable`, with the reason. */
  async find(text: string, signal: AbortSignal): Promise<RegistryImage> {
    const reference = parseReference(text);
    if (reference === undefined) throw unavailable(text, 'is not the name of an image');
    try {
      const session: Session = { reference, base: this.#base(reference), authorization: undefined };
      const first = await this.#get(session, `manifests/${reference.digest ?? reference.tag}`, signal);
      const index = Value.Check(Index, first) ? first : undefined;
      const manifest = checked(
        Manifest,
        index === undefined ? first : await this.#get(session, `manifests/${this.#choose(index)}`, signal),
      );
      const { digest } = manifest.config;
      const { config } = checked(Configuration, await this.#get(session, `blobs/${digest}`, signal));
      return { digest, entrypoint: config?.Entrypoint ?? [], cmd: config?.Cmd ?? [] };
    } catch (cause) {
      signal.throwIfAborted();
      throw unavailable(text, cause instanceof Error ? cause.message : String(cause), cause);
    }
  }

  #base({ host, repository }: ImageReference): string {
    // Docker's own registry has another name than its images.
    const server = host === 'docker.io' ? 'registry-1.docker.io' : host;
    return `${this.#isPlain(host) ? 'http' : 'https'}://${server}/v2/${repository}`;
  }

  #choose({ manifests }: Static<typeof Index>): string {
    const linux = manifests.filter(({ platform }) => platform?.os === 'linux');
    const chosen = linux.find(({ platform }) => platform?.architecture === this.#options.architecture) ?? linux[0];
    if (chosen === undefined) throw new Error('it has nothing for linux');
    return chosen.digest;
  }

  /** Parsed; what is named by a digest has it. */
  async #get(session: Session, path: string, signal: AbortSignal): Promise<unknown> {
    const ask = () =>
      fetch(`${session.base}/${path}`, {
        headers: { accept: MANIFESTS, ...(session.authorization === undefined ? {} : { authorization: session.authorization }) },
        signal,
      });
    let answer = await ask();
    const challenge = answer.headers.get('www-authenticate');
    if (answer.status === 401 && session.authorization === undefined && challenge !== null) {
      await answer.body?.cancel();
      session.authorization = await authorize(challenge, session.base, signal);
      answer = await ask();
    }
    const bytes = await bodyOf(answer);
    if (!answer.ok) throw new Error(`${session.reference.host} answered ${answer.status}`);
    const [, wanted] = /(sha256:[0-9a-f]{64})$/.exec(path) ?? [];
    const is = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
    if (wanted !== undefined && wanted !== is) throw new Error(`what ${session.reference.host} has as ${wanted} is ${is}`);
    return JSON.parse(bytes.toString());
  }
}

type Session = { readonly reference: ImageReference; readonly base: string; authorization: string | undefined };

/** A token for anybody (https://distribution.github.io/distribution/spec/auth/token/). */
async function authorize(challenge: string, base: string, signal: AbortSignal): Promise<string> {
  const said = new Map([...challenge.matchAll(/(\w+)="([^"]*)"/g)].map(([, key = '', value = '']) => [key, value]));
  const realm = said.get('realm') ?? '';
  if (!/^bearer /i.test(challenge) || !URL.canParse(realm)) throw new Error('it wants credentials');
  const url = new URL(realm);
  // Whoever names an image chooses the registry, and that the realm: it must not lead to what answers everybody inside, as clouds' metadata does.
  if (url.protocol !== new URL(base).protocol) throw new Error(`it sends to ${url.protocol}//${url.host} for a token`);
  for (const key of ['service', 'scope']) if (said.has(key)) url.searchParams.set(key, said.get(key) ?? '');
  const answer = await fetch(url, { signal });
  const bytes = await bodyOf(answer);
  if (!answer.ok) throw new Error(`it wants credentials: ${url.host} answered ${answer.status}`);
  const { token, access_token } = checked(Token, JSON.parse(bytes.toString()));
  return `Bearer ${token ?? access_token ?? ''}`;
}

async function bodyOf(answer: Response): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of answer.body ?? []) {
    size += chunk.length;
    if (size > MAX_BYTES) throw new Error(`an answer has more than ${MAX_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function checked<T extends TSchema>(schema: T, value: unknown): Static<T> {
  if (Value.Check(schema, value)) return value;
  throw new Error('an answer is not what the specification says');
}

function plainHosts(entries: readonly string[]): (host: string) => boolean {
  const networks = new BlockList();
  for (const entry of entries) {
    const [address = '', bits] = entry.split('/');
    if (bits !== undefined) networks.addSubnet(address, Number(bits), isIP(address) === 6 ? 'ipv6' : 'ipv4');
  }
  return (host) => {
    const name = host.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
    const family = isIP(name);
    if (entries.includes(host) || entries.includes(name)) return true;
    return family !== 0 && networks.check(name, family === 6 ? 'ipv6' : 'ipv4');
  };
}

function unavailable(image: string, why: string, cause?: unknown): RekindleError {
  return new RekindleError('image_unavailable', `image ${image}: ${why}`, { cause, retryable: true });
}
