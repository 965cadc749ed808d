import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';

/** Where the API server says how it proves itself to the servers of aggregated APIs. */
export const FRONT_PROXY_CONFIG = { namespace: 'kube-system', name: 'extension-apiserver-authentication' } as const;

/** How a request proves that the API server sent it, and says whose it is (https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/). */
export type FrontProxy = {
  /** Who signs its client certificate, as PEM. */
  readonly ca: string;
  /** The common names that certificate may have; none: any. */
  readonly allowedNames: readonly string[];
  readonly userHeaders: readonly string[];
  readonly uidHeaders: readonly string[];
  readonly groupHeaders: readonly string[];
  readonly extraPrefixes: readonly string[];
};

/** Whose request it is. */
export type Requester = {
  readonly user: string;
  readonly uid: string | undefined;
  readonly groups: readonly string[];
  readonly extra: Readonly<Record<string, readonly string[]>>;
};

/** What of a request says that. */
export type Sender = {
  /** Of a client certificate that {@link FrontProxy.ca} signed; undefined without one. */
  readonly commonName: string | undefined;
  /** Each header's values apart, names in lower case, as `IncomingMessage.headersDistinct` has them. */
  readonly headers: Readonly<Record<string, readonly string[] | undefined>>;
};

const Names = Type.Array(Type.String());
type Names = Static<typeof Names>;

/** Reads the ConfigMap {@link FRONT_PROXY_CONFIG}. Undefined where the API server has no front proxy, and aggregated APIs cannot work. */
export function frontProxyOf(data: Readonly<Record<string, string>> | undefined): FrontProxy | undefined {
  const ca = data?.['requestheader-client-ca-file'];
  if (data === undefined || ca === undefined || ca === '') return undefined;
  const names = (key: string): Names => namesIn(data[`requestheader-${key}`]);
  const lower = (key: string): Names => names(key).map((name) => name.toLowerCase());
  return {
    ca,
    allowedNames: names('allowed-names'),
    userHeaders: lower('username-headers'),
    uidHeaders: lower('uid-headers'),
    groupHeaders: lower('group-headers'),
    extraPrefixes: lower('extra-headers-prefix'),
  };
}

/** Undefined when it is not from the API server, or says no user. Pure. */
export function requesterOf(proxy: FrontProxy, { commonName, headers }: Sender): Requester | undefined {
  if (commonName === undefined || (proxy.allowedNames.length > 0 && !proxy.allowedNames.includes(commonName))) return undefined;
  const first = (names: readonly string[]) => names.map((name) => headers[name]?.[0]).find((value) => value !== undefined && value !== '');
  const user = first(proxy.userHeaders);
  if (user === undefined) return undefined;
  const said = proxy.groupHeaders.flatMap((name) => headers[name] ?? []);
  // As every API server does: the aggregation layer asks for our discovery as a user without any group, and every namespace's deletion waits for that.
  const isNamed = user !== 'system:anonymous' && !said.includes('system:authenticated') && !said.includes('system:unauthenticated');
  const groups = isNamed ? [...said, 'system:authenticated'] : said;
  const extra = new Map<string, string[]>();
  for (const [header, values = []] of Object.entries(headers)) {
    const prefix = proxy.extraPrefixes.find((one) => header.startsWith(one) && header.length > one.length);
    if (prefix === undefined) continue;
    const key = unescaped(header.slice(prefix.length));
    extra.set(key, [...(extra.get(key) ?? []), ...values]);
  }
  return { user, uid: first(proxy.uidHeaders), groups, extra: Object.fromEntries(extra) };
}

function namesIn(text: string | undefined): Names {
  try {
    const value: unknown = JSON.parse(text ?? '[]');
    return Value.Check(Names, value) ? value : [];
  } catch {
    return [];
  }
}

/** Keys are percent-encoded where a header's name could not hold them. */
function unescaped(key: string): string {
  try {
    return decodeURIComponent(key);
  } catch {
    return key;
  }
}
