import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { request } from 'undici';
import type { ImageRuns } from '../agent/peer-server.ts';
import { readPeerToken } from '../agent/service-secret.ts';
import type { RedisConnections } from '../queue/redis.ts';
import type { SharedView } from '../queue/truth.ts';

const Answer = Type.Object({ entrypoint: Type.Array(Type.String()), cmd: Type.Array(Type.String()) });

/** Asks every agent what the image runs that its node has under this name. Nodes that have none, or do not answer, are left out. */
export function imagesOfNodes(deps: { readonly redis: RedisConnections; readonly view: SharedView }) {
  return async (reference: string, signal: AbortSignal): Promise<readonly ImageRuns[]> => {
    const token = await readPeerToken(deps.redis);
    if (token === undefined) return [];
    const peers = [...deps.view.view.nodes.values()].flatMap(({ said }) => said.peer ?? []);
    const asked = await Promise.allSettled(peers.map((peer) => ask(peer, reference, token, signal)));
    return asked.flatMap((one) => (one.status === 'fulfilled' && one.value !== undefined ? [one.value] : []));
  };
}

async function ask(peer: string, reference: string, token: string, signal: AbortSignal): Promise<ImageRuns | undefined> {
  const url = `${peer}/images?${new URLSearchParams({ reference })}`;
  const { statusCode, body } = await request(url, { headers: { authorization: `Bearer ${token}` }, signal });
  const answer: unknown = await body.json();
  return statusCode === 200 && Value.Check(Answer, answer) ? answer : undefined;
}
