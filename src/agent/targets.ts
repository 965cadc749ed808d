import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { addressesOf } from '../checkpoint/addresses.ts';
import { connectInto, type DialDeps } from '../lib/dial.ts';
import { RekindleError } from '../lib/errors.ts';
import type { ProbeTarget } from '../probes/target.ts';
import type { Container, Host } from '../workloads/host.ts';

export type TargetDeps = { readonly host: Pick<Host, 'exec'>; readonly dial: DialDeps };

const CONNECT_TIMEOUT_MS = 5_000;

/** How probes, warm-up and hooks reach a container: at its address, or from inside its network where it has none that we could reach. */
export function targetOf(deps: TargetDeps, container: Container): ProbeTarget {
  return {
    exec: (command, options) => deps.host.exec(container, command, options),
    connect: async (port, signal): Promise<Duplex> => {
      const [address] = container.addresses;
      if (address === undefined) return dialInside(deps.dial, container.pid, port, signal);
      return dialAddress(address, port, signal);
    },
  };
}

/** At its own address as far as it has one: what an application listens on alone. */
function dialInside(dial: DialDeps, pid: number, port: number, signal: AbortSignal): Promise<Duplex> {
  const [host] = addressesOf(pid);
  return connectInto(dial, { pid, port, timeoutMs: CONNECT_TIMEOUT_MS, ...(host === undefined ? {} : { host }) }, signal);
}

function dialAddress(host: string, port: number, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true });
    const stop = (error: unknown) => {
      signal.removeEventListener('abort', abort);
      socket.destroy();
      reject(error);
    };
    const abort = () => stop(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    socket.setTimeout(CONNECT_TIMEOUT_MS, () =>
      stop(new RekindleError('timeout', `no connection to ${host}:${port}`, { retryable: true })),
    );
    socket.once('error', stop);
    socket.once('connect', () => {
      signal.removeEventListener('abort', abort);
      socket.off('error', stop);
      socket.setTimeout(0);
      resolve(socket);
    });
  });
}
