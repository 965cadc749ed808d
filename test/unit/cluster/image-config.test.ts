import { describe, expect, test } from 'vitest';
import { ImageConfigs } from '../../../src/cluster/image-config.ts';
import type { ImageConfig } from '../../../src/cluster/webhook/inject.ts';

const A: ImageConfig = { entrypoint: ['/a'], cmd: [] };
const B: ImageConfig = { entrypoint: ['/b'], cmd: [] };
const DIGEST = `shop/web@sha256:${'a'.repeat(64)}`;
const signal = () => AbortSignal.timeout(5_000);
const never = () => new Promise<never>(() => undefined);

function rig(nodes: readonly ImageConfig[] | 'silent', registry: ImageConfig | 'silent' | 'away') {
  let nowMs = 0;
  const asked: string[] = [];
  const configs = new ImageConfigs({
    ofNodes: async (reference) => {
      asked.push(`nodes ${reference}`);
      return nodes === 'silent' ? never() : nodes;
    },
    ofRegistry: async (reference) => {
      asked.push(`registry ${reference}`);
      if (registry === 'away') throw new Error('away');
      return registry === 'silent' ? never() : registry;
    },
    clock: { now: () => nowMs, sleep: async () => undefined },
  });
  const find = (reference = 'shop/web:1', pullPolicy = 'IfNotPresent') => configs.find({ reference, pullPolicy }, signal());
  return { find, asked, later: (ms: number) => (nowMs += ms) };
}

describe('what an image runs', () => {
  test.each<[string, Parameters<typeof rig>, ImageConfig | undefined]>([
    ['nodes and registry agree', [[A, A], A], A],
    ['only nodes know, and agree', [[A, A], 'away'], A],
    ['only the registry knows', [[], A], A],
    ['a node has another image under the tag than the registry', [[A], B], undefined],
    ['nodes have different images under the tag', [[A, B], 'away'], undefined],
    ['nobody knows', [[], 'away'], undefined],
  ])('when %s', async (_, facts, found) => {
    expect(await rig(...facts).find()).toEqual(found);
  });

  test('of a digest is whatever is heard first', async () => {
    expect(await rig('silent', A).find(DIGEST)).toEqual(A);
    expect(await rig([A], 'silent').find(DIGEST)).toEqual(A);
  });

  test('is not asked of nodes that pull anew, nor of the registry where nobody pulls', async () => {
    const always = rig([A], B);
    const pulledNever = rig([A], B);

    expect(await always.find('shop/web:1', 'Always')).toEqual(B);
    expect(await pulledNever.find('shop/web:1', 'Never')).toEqual(A);
    expect([always.asked, pulledNever.asked]).toEqual([['registry shop/web:1'], ['nodes shop/web:1']]);
  });

  test('is asked once for a burst of pods, and again when the tag may have moved; a digest never does', async () => {
    const tag = rig([A], A);
    const digest = rig([A], A);

    await Promise.all([tag.find(), tag.find(), digest.find(DIGEST)]);
    await tag.find();
    expect(tag.asked).toHaveLength(2);
    tag.later(20_000);
    digest.later(20_000);
    await Promise.all([tag.find(), digest.find(DIGEST)]);

    expect(tag.asked).toHaveLength(4);
    expect(digest.asked).toHaveLength(2);
  });

  test('that nobody knew is asked again at once', async () => {
    const { find, asked } = rig([], 'away');

    await find();
    await find();

    expect(asked).toHaveLength(4);
  });

  test('that nobody knew for the first pod is known for the next one, since the node of the first has pulled it', async () => {
    const nodes: ImageConfig[] = [];
    const { find } = rig(nodes, 'away');

    const first = await find();
    nodes.push(A);
    const next = await find();

    expect([first, next]).toEqual([undefined, A]);
  });

  test('is told to a pod that asked with another, although that one is not waiting any more', async () => {
    const answer = Promise.withResolvers<readonly ImageConfig[]>();
    const configs = new ImageConfigs({
      ofNodes: (_, until) => {
        until.addEventListener('abort', () => answer.resolve([]));
        return answer.promise;
      },
      ofRegistry: () => Promise.reject(new Error('away')),
      clock: { now: () => 0, sleep: async () => undefined },
    });
    const first = new AbortController();
    const asked = { reference: 'shop/web:1', pullPolicy: 'IfNotPresent' };

    const gone = configs.find(asked, first.signal);
    const second = configs.find(asked, signal());
    first.abort(new Error('its ConfigMap is missing'));
    answer.resolve([A]);

    await expect(gone).rejects.toThrow('its ConfigMap is missing');
    expect(await second).toEqual(A);
  });
});
