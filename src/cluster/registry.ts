import { createHash } from 'node:crypto';
import { type Static, type TSchema, Type } from 'typebox';
import { Value } from 'typebox/value';
import { RekindleError } from '../lib/errors.ts';
import { Semaphore } from '../lib/semaphore.ts';
import { type ImageReference, parseReference } from './image-reference.ts';
import { RegistryHttp, type RegistryHttpOptions, type RegistrySession } from './registry-http.ts';

export type RegistryOptions = RegistryHttpOptions & { readonly architecture: string };

/** What an image runs, and the digest of the configuration that says so. */
export type RegistryImage = { readonly digest: string; readonly entrypoint: readonly string[]; readonly cmd: readonly string[] };

/** Images at the same time: any number of pods may name any number of them. */
const AT_ONCE = 16;
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
  readonly #architecture: string;
  readonly #http: RegistryHttp;
  readonly #turns = new Semaphore(AT_ONCE);

  constructor({ architecture, ...options }: RegistryOptions) {
    this.#architecture = architecture;
    this.#http = new RegistryHttp(options);
  }

  /** Throws `image_unavailable`, with the reason. */
  async find(text: string, signal: AbortSignal): Promise<RegistryImage> {
    const reference = parseReference(text);
    if (reference === undefined) throw unavailable(text, 'is not the name of an image');
    try {
      return await this.#turns.run(() => this.#find(reference, signal), signal);
    } catch (cause) {
      signal.throwIfAborted();
      throw unavailable(text, cause instanceof Error ? cause.message : String(cause), cause);
    }
  }

  async #find(reference: ImageReference, signal: AbortSignal): Promise<RegistryImage> {
    const base = this.#base(reference);
    using http = this.#http.open(new URL(base).host);
    const session: Session = { reference, base, http, authorization: undefined };
    const first = await this.#get(session, `manifests/${reference.digest ?? reference.tag}`, signal);
    const index = Value.Check(Index, first) ? first : undefined;
    const manifest = checked(Manifest, index === undefined ? first : await this.#get(session, `manifests/${this.#choose(index)}`, signal));
    const { digest } = manifest.config;
    const { config } = checked(Configuration, await this.#get(session, `blobs/${digest}`, signal));
    return { digest, entrypoint: config?.Entrypoint ?? [], cmd: config?.Cmd ?? [] };
  }

  #base({ host, repository }: ImageReference): string {
    // Docker's own registry has another name than its images.
    const server = host === 'docker.io' ? 'registry-1.docker.io' : host;
    return `${this.#http.isPlain(host) ? 'http' : 'https'}://${server}/v2/${repository}`;
  }

  #choose({ manifests }: Static<typeof Index>): string {
    const linux = manifests.filter(({ platform }) => platform?.os === 'linux');
    const chosen = linux.find(({ platform }) => platform?.architecture === this.#architecture) ?? linux[0];
    if (chosen === undefined) throw new Error('it has nothing for linux');
    return chosen.digest;
  }

  /** Parsed; what is named by a digest has it. */
  async #get(session: Session, path: string, signal: AbortSignal): Promise<unknown> {
    const ask = () =>
      session.http.get(
        new URL(`${session.base}/${path}`),
        { accept: MANIFESTS, ...(session.authorization === undefined ? {} : { authorization: session.authorization }) },
        signal,
      );
    let answer = await ask();
    const challenge = answer.headers['www-authenticate'];
    if (answer.status === 401 && session.authorization === undefined && challenge !== undefined) {
      session.authorization = await authorize(challenge, session, signal);
      answer = await ask();
    }
    const { status, body } = answer;
    if (status !== 200) throw new Error(`${session.reference.host} answered ${status}`);
    const [, wanted] = /(sha256:[0-9a-f]{64})$/.exec(path) ?? [];
    const is = `sha256:${createHash('sha256').update(body).digest('hex')}`;
    if (wanted !== undefined && wanted !== is) throw new Error(`what ${session.reference.host} has as ${wanted} is ${is}`);
    return JSON.parse(body.toString());
  }
}

type Session = {
  readonly reference: ImageReference;
  readonly base: string;
  readonly http: RegistrySession;
  authorization: string | undefined;
};

/** A token for anybody (https://distribution.github.io/distribution/spec/auth/token/). */
async function authorize(challenge: string, { base, http }: Session, signal: AbortSignal): Promise<string> {
  const said = new Map([...challenge.matchAll(/(\w+)="([^"]*)"/g)].map(([, key = '', value = '']) => [key, value]));
  const realm = said.get('realm') ?? '';
  if (!/^bearer /i.test(challenge) || !URL.canParse(realm)) throw new Error('it wants credentials');
  const url = new URL(realm);
  if (url.protocol !== new URL(base).protocol) throw new Error(`it sends to ${url.protocol}//${url.host} for a token`);
  for (const key of ['service', 'scope']) if (said.has(key)) url.searchParams.set(key, said.get(key) ?? '');
  const { status, body } = await http.get(url, {}, signal);
  if (status !== 200) throw new Error(`it wants credentials: ${url.host} answered ${status}`);
  const { token, access_token } = checked(Token, JSON.parse(body.toString()));
  return `Bearer ${token ?? access_token ?? ''}`;
}

function checked<T extends TSchema>(schema: T, value: unknown): Static<T> {
  if (Value.Check(schema, value)) return value;
  throw new Error('an answer is not what the specification says');
}

function unavailable(image: string, why: string, cause?: unknown): RekindleError {
  return new RekindleError('image_unavailable', `image ${image}: ${why}`, { cause, retryable: true });
}
