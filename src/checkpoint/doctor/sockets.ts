import type { OpenFile } from '../process.ts';

const ESTABLISHED = '01'; // TCP_ESTABLISHED (include/net/tcp_states.h)

/** The inodes of the sockets among open files. */
export function socketInodes(files: readonly OpenFile[]): Set<string> {
  return new Set(files.flatMap(({ target }) => /^socket:\[(\d+)\]$/.exec(target)?.[1] ?? []));
}

/** Remote ends (hexadecimal, as the kernel writes them) of established connections among `inodes`, from the text of /proc/PID/net/tcp or tcp6. */
export function establishedTcp(table: string, inodes: ReadonlySet<string>): string[] {
  return table
    .split('\n')
    .slice(1)
    .flatMap((line) => {
      const [, , remote, state, , , , , , inode] = line.trim().split(/\s+/);
      return remote !== undefined && state === ESTABLISHED && inode !== undefined && inodes.has(inode) ? [remote] : [];
    });
}

/**
 * Unix sockets of `inodes` whose other end is not among them, from the output of `ss -xanH`: the other end's path, or its own, or its
 * inode. /proc/net/unix does not tell who is connected to whom.
 */
export function outsideSockets(output: string, inodes: ReadonlySet<string>): string[] {
  // NETID STATE RECV-Q SEND-Q LOCAL-PATH LOCAL-INODE PEER-PATH PEER-INODE; a path may hold spaces.
  const sockets = output.split('\n').flatMap((line) => {
    const [, path, inode, peerPath, peer] = /^u_\w+\s+\S+\s+\d+\s+\d+\s+(.+?)\s+(\d+)\s+(.+?)\s+(\d+)\s*$/.exec(line) ?? [];
    return path === undefined || inode === undefined || peerPath === undefined || peer === undefined
      ? []
      : [{ path, inode, peerPath, peer }];
  });
  const pathOf = new Map(sockets.map(({ inode, path }) => [inode, path]));
  return sockets
    .filter(({ inode, peer }) => inodes.has(inode) && peer !== '0' && !inodes.has(peer))
    .map(
      ({ path, inode, peerPath, peer }) =>
        [peerPath, pathOf.get(peer), path].find((name) => name !== undefined && name !== '*') ?? `socket ${inode}`,
    );
}
