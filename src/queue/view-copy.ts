import { Type } from 'typebox';
import { Compile } from 'typebox/compile';
import { GatewayTruth, NodeTruth, ScalerTruth, type Seen, type View, WorkloadTruth } from './truth.ts';
import { type Header, headerOf, TTL_MS } from './view-wire.ts';

type Part = { readonly header: Header; heardAtMs: number };

/** What became of a text that came. */
export type Heard = 'new' | 'known' | 'malformed';

/** The copy of the shared view that one process keeps. Texts are checked here, and nowhere else. */
export class ViewCopy {
  readonly #nodes = new Map<string, Seen<NodeTruth>>();
  readonly #gateways = new Map<string, Seen<GatewayTruth>>();
  #scaler: Seen<ScalerTruth> | undefined;
  #workloads: ReadonlyMap<string, WorkloadTruth> | undefined;
  readonly #parts = new Map<string, Part>();
  readonly #checks = {
    node: Compile(NodeTruth),
    gateway: Compile(GatewayTruth),
    scaler: Compile(ScalerTruth),
    workloads: Compile(Type.Array(WorkloadTruth)),
  };
  readonly view: View;

  constructor() {
    const copy = this;
    this.view = {
      nodes: this.#nodes,
      gateways: this.#gateways,
      get scaler() {
        return copy.#scaler;
      },
      get workloads() {
        return copy.#workloads;
      },
    };
  }

  /** Whether a text that begins so may be newer than what is here. */
  lacks(name: string, begin: string): boolean {
    const header = headerOf(begin);
    return header === undefined || !this.#isKnown(name, header);
  }

  /** A text that was written at this time of our clock, as far as is known. An empty one takes the part back. */
  hear(name: string, text: string, writtenAtMs: number): Heard {
    const header = headerOf(text);
    if (header === undefined) return 'malformed';
    if (this.#isKnown(name, header)) return 'known';
    const before = this.#parts.get(name);
    const json = text.slice(text.indexOf('\n') + 1);
    if (json === '') return before?.header.writer === header.writer && this.forget(name) ? 'new' : 'known';
    // Of another writer's text only the time tells whether it is older.
    if (before !== undefined && before.header.writer !== header.writer && writtenAtMs < before.heardAtMs) return 'known';
    if (!this.#keep(name, json, writtenAtMs)) return 'malformed';
    this.#parts.set(name, { header, heardAtMs: writtenAtMs });
    return 'new';
  }

  /** Forgets what has not been told for its time to live, but nothing before `notBeforeMs`. Workloads stay. Says whether anything went. */
  expire(nowMs: number, notBeforeMs: number): boolean {
    let any = false;
    for (const [name, { heardAtMs }] of this.#parts) {
      if (name === 'workloads' || nowMs < Math.max(heardAtMs + TTL_MS, notBeforeMs)) continue;
      any = this.forget(name) || any;
    }
    return any;
  }

  forget(name: string): boolean {
    const [kind, id] = split(name);
    if (kind === 'workloads' || !this.#parts.delete(name)) return false;
    if (kind === 'node') this.#nodes.delete(id);
    if (kind === 'gateway') this.#gateways.delete(id);
    if (kind === 'scaler') this.#scaler = undefined;
    return true;
  }

  #isKnown(name: string, { writer, number }: Header): boolean {
    const header = this.#parts.get(name)?.header;
    return header?.writer === writer && header.number >= number;
  }

  #keep(name: string, json: string, heardAtMs: number): boolean {
    const [kind, id] = split(name);
    const said = parse(json);
    const { node, gateway, scaler, workloads } = this.#checks;
    if (kind === 'node' && node.Check(said) && said.name === id) this.#nodes.set(id, { said, heardAtMs });
    else if (kind === 'gateway' && gateway.Check(said) && said.id === id) this.#gateways.set(id, { said, heardAtMs });
    else if (kind === 'scaler' && scaler.Check(said)) this.#scaler = { said, heardAtMs };
    else if (kind === 'workloads' && workloads.Check(said)) this.#workloads = new Map(said.map((one) => [one.name, one]));
    else return false;
    return true;
  }
}

function split(name: string): [kind: string, id: string] {
  const colon = name.indexOf(':');
  return colon < 0 ? [name, ''] : [name.slice(0, colon), name.slice(colon + 1)];
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}
