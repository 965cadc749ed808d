import { orAborted } from '../lib/abort.ts';
import type { Clock } from '../lib/clock.ts';
import { parseReference } from './image-reference.ts';
import type { AskedImage, ImageConfig } from './webhook/inject.ts';

export type ImageConfigsDeps = {
  /** What the agents' nodes have under this name; not those that do not answer in time. */
  readonly ofNodes: (reference: string, signal: AbortSignal) => Promise<readonly ImageConfig[]>;
  /** What the registry has; rejects when it does not say. */
  readonly ofRegistry: (reference: string, signal: AbortSignal) => Promise<ImageConfig>;
  /** Monotonic. */
  readonly clock: Clock;
};

/** A tag may be moved at any time; a burst of pods asks once. */
const TAG_KEPT_MS = 10_000;
const MOST_KEPT = 1_000;
/** What nodes say is enough then: of the second that there is. */
const REGISTRY_MS = 800;

/**
 * What images run. A digest is the same everywhere, so that the first answer is right. Under a tag a node may have another image than the registry or
 * another node: what they run is known only if all who have it say the same.
 */
export class ImageConfigs {
  readonly #deps: ImageConfigsDeps;
  readonly #known = new Map<string, { readonly config: ImageConfig; readonly untilMs: number }>();
  readonly #asking = new Map<string, Promise<ImageConfig | undefined>>();

  constructor(deps: ImageConfigsDeps) {
    this.#deps = deps;
  }

  /** Undefined when nobody knows, or not surely. */
  async find({ reference, pullPolicy }: AskedImage, signal: AbortSignal): Promise<ImageConfig | undefined> {
    const key = `${pullPolicy} ${reference}`;
    const known = this.#known.get(key);
    if (known !== undefined && this.#deps.clock.now() < known.untilMs) return known.config;
    const asking = this.#asking.get(key) ?? this.#ask(key, reference, pullPolicy);
    this.#asking.set(key, asking);
    try {
      return await orAborted(asking, signal);
    } finally {
      if (this.#asking.get(key) === asking) this.#asking.delete(key);
    }
  }

  /** For all who ask meanwhile: none of them ends it. */
  async #ask(key: string, reference: string, pullPolicy: string | undefined): Promise<ImageConfig | undefined> {
    const { clock, ofNodes, ofRegistry } = this.#deps;
    const isDigest = parseReference(reference)?.digest !== undefined;
    const until = AbortSignal.timeout(REGISTRY_MS);
    const nodes = pullPolicy === 'Always' && !isDigest ? Promise.resolve([]) : ofNodes(reference, until).catch(() => []);
    const registry =
      pullPolicy === 'Never'
        ? Promise.resolve([])
        : ofRegistry(reference, until).then(
            (one) => [one],
            () => [],
          );
    const config = isDigest ? await firstOf([nodes, registry]) : agreed((await Promise.all([nodes, registry])).flat());
    if (config !== undefined) {
      if (this.#known.size >= MOST_KEPT) this.#known.clear();
      this.#known.set(key, { config, untilMs: isDigest ? Number.POSITIVE_INFINITY : clock.now() + TAG_KEPT_MS });
    }
    return config;
  }
}

function firstOf(answers: readonly Promise<readonly ImageConfig[]>[]): Promise<ImageConfig | undefined> {
  const found = answers.map(async (answer) => {
    const [config] = await answer;
    if (config === undefined) throw new Error('nothing');
    return config;
  });
  return Promise.any(found).catch(() => undefined);
}

function agreed(configs: readonly ImageConfig[]): ImageConfig | undefined {
  const texts = new Set(configs.map(({ entrypoint, cmd }) => JSON.stringify([entrypoint, cmd])));
  return texts.size === 1 ? configs[0] : undefined;
}
