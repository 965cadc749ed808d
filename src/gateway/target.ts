/** What `/invoke/{workload}/{path}` asks for: `path` begins with `/` and has the query. */
export type InvokeTarget = { readonly workload: string; readonly path: string };

const PREFIX = '/invoke/';

export const isInvoke = (url: string): boolean => url.startsWith(PREFIX);

/**
 * Takes the url apart; nothing of the path is decoded or made simpler, the application gets it as the client wrote it. Undefined when the workload
 * is not a name at all. `namespaced`, as in a cluster: `/invoke/{namespace}/{workload}/{path}` for the workload `NAMESPACE.WORKLOAD`.
 */
export function parseTarget(url: string, { namespaced = false }: { readonly namespaced?: boolean } = {}): InvokeTarget | undefined {
  const found = parseName(url, PREFIX.length);
  // A name that has its namespace in it already is taken too: that is how the API calls it.
  if (!namespaced || found === undefined || found.workload.includes('.')) return found;
  const inner = parseName(found.path, 1);
  return inner === undefined || inner.workload.includes('.')
    ? undefined
    : { workload: `${found.workload}.${inner.workload}`, path: inner.path };
}

function parseName(url: string, from: number): InvokeTarget | undefined {
  const slash = url.indexOf('/', from);
  const query = url.indexOf('?', from);
  const end = Math.min(slash < 0 ? url.length : slash, query < 0 ? url.length : query);
  const workload = url.slice(from, end);
  if (!/^[A-Za-z0-9._-]{1,253}$/.test(workload)) return undefined;
  const rest = url.slice(end);
  // A fragment is no part of a request, and what sends the request on would refuse it.
  return { workload, path: rest.startsWith('/') ? rest : `/${rest}` };
}

/** Where an instance is reached: `10.87.0.5`, `10.87.0.5:8080`, `[fd00::5]:8080` or `fd00::5`; without a port `port` is taken. */
export function parseAddress(
  address: string,
  port: number | undefined,
): { readonly host: string; readonly port: number | undefined } | undefined {
  const bracketed = /^\[([0-9a-fA-F:.%]+)\](?::(\d{1,5}))?$/.exec(address);
  const plain = bracketed ?? (/^([^:\s]+)(?::(\d{1,5}))?$/.exec(address) || /^([0-9a-fA-F:.%]+)$/.exec(address));
  const host = plain?.[1];
  if (host === undefined) return undefined;
  return { host, port: plain?.[2] === undefined ? port : Number(plain[2]) };
}
