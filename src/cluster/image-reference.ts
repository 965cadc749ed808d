/** An image's name, taken apart. `host` may have a port. */
export type ImageReference = {
  readonly host: string;
  readonly repository: string;
  readonly tag: string;
  readonly digest: string | undefined;
};

/** As runtimes read it: `nginx` is docker.io/library/nginx:latest. Undefined for what is no name. https://github.com/distribution/reference */
export function parseReference(text: string): ImageReference | undefined {
  const [, name = '', tag = 'latest', digest] =
    /^(.+?)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?$/.exec(text) ?? [];
  const slash = name.indexOf('/');
  const first = name.slice(0, Math.max(0, slash));
  const hasHost = /[.:]/.test(first) || first === 'localhost';
  const host = hasHost ? first : 'docker.io';
  const path = hasHost ? name.slice(slash + 1) : name;
  const repository = host === 'docker.io' && !path.includes('/') ? `library/${path}` : path;
  const isPath = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/.test(repository);
  const isHost = /^(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::\d{1,5})?$/.test(host);
  return isPath && isHost ? { host: host === 'index.docker.io' ? 'docker.io' : host, repository, tag, digest } : undefined;
}
