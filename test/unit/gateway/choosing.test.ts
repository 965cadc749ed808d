import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Admission } from '../../../src/gateway/admission.ts';
import { type Instance, Instances } from '../../../src/gateway/instances.ts';
import { concurrencyLimit, pick } from '../../../src/gateway/pick.ts';
import type { Ticket } from '../../../src/gateway/waiting.ts';
import { aSlot, FakeView } from '../../fixtures/fake-view.ts';

const candidate = (more: object) => ({ inFlight: 0, lastUsedMs: 0, draining: false, avoidUntilMs: 0, ...more });

test('the instance with least to do is picked, of equals the one used last', () => {
  const [busy, idle, used] = [candidate({ inFlight: 1 }), candidate({ lastUsedMs: 5 }), candidate({ lastUsedMs: 9 })];

  expect(pick([busy, idle, used], 2, 10)).toBe(used);
  expect(pick([busy], 1, 10)).toBeUndefined();
  expect(pick([candidate({ draining: true }), candidate({ avoidUntilMs: 11 })], 1, 10)).toBeUndefined();
});

test('whatever is picked may be picked, and nothing better may', () => {
  const one = fc.record({ inFlight: fc.nat(5), lastUsedMs: fc.nat(9), draining: fc.boolean(), avoidUntilMs: fc.nat(20) });
  fc.assert(
    fc.property(fc.array(one), fc.integer({ min: 1, max: 5 }), fc.nat(20), (all, limit, now) => {
      const allowed = all.filter((each) => !each.draining && each.inFlight < limit && each.avoidUntilMs <= now);
      const picked = pick(all, limit, now);
      expect(picked === undefined).toBe(allowed.length === 0);
      if (picked === undefined) return;
      expect(allowed).toContain(picked);
      const better = (each: (typeof all)[number]) =>
        each.inFlight < picked.inFlight || (each.inFlight === picked.inFlight && each.lastUsedMs > picked.lastUsedMs);
      expect(allowed.some(better)).toBe(false);
    }),
  );
});

test('an instance is given what the pool says, by default what scaling aims at', () => {
  expect([
    concurrencyLimit({ targetConcurrency: 0.5 }),
    concurrencyLimit({ targetConcurrency: 2.5 }),
    concurrencyLimit({ targetConcurrency: 2, maxConcurrency: 9 }),
  ]).toEqual([1, 3, 9]);
});

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

type Step =
  | { readonly do: 'arrive' }
  | { readonly do: 'end' | 'fail' | 'leave'; readonly which: number }
  | { readonly do: 'slots'; readonly ready: readonly boolean[] }
  | { readonly do: 'drain'; readonly which: number }
  | { readonly do: 'others'; readonly inFlight: number }
  | { readonly do: 'time'; readonly ms: number };

const which = fc.nat(20);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.constant({ do: 'arrive' } as const) },
  { weight: 4, arbitrary: fc.record({ do: fc.constantFrom('end', 'fail', 'leave'), which }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('slots' as const), ready: fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }) }) },
  fc.record({ do: fc.constant('drain' as const), which: fc.nat(4) }),
  fc.record({ do: fc.constant('others' as const), inFlight: fc.nat(3) }),
  fc.record({ do: fc.constant('time' as const), ms: fc.constantFrom(10, 300) }),
);

test('no instance has more requests than it may, none waits while one is free, and the line is served in order', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), fc.integer({ min: 1, max: 3 }), (steps, limit) => {
      const world = new World(limit);
      for (const one of steps) {
        world.take(one);
        world.check();
      }
      world.finish();
    }),
    { numRuns: 300 },
  );
});

/** An admission with four slots, driven step by step. */
class World {
  readonly view = new FakeView();
  readonly limit: number;
  readonly instances: Instances;
  readonly admission: Admission;
  readonly running: { ticket: Ticket; instance: Instance }[] = [];
  readonly line: Ticket[] = [];
  nowMs = 0;
  arrivals = 0;

  constructor(limit: number) {
    this.limit = limit;
    const nowMs = () => this.nowMs;
    this.instances = new Instances({ gateway: 'me', nowMs, onReady: () => undefined, onGone: () => undefined });
    this.admission = new Admission({
      instances: this.instances,
      nowMs,
      tell: () => undefined,
      onUnused: (one) => this.instances.forget(one),
    });
    this.view.onChange(() => {
      this.instances.update(this.view.view);
      this.admission.serveAll();
    });
    this.view.workloads({ demo: { maxConcurrency: limit } });
  }

  take(one: Step): void {
    switch (one.do) {
      case 'arrive': {
        this.nowMs += 1;
        const ticket: Ticket = {
          workload: 'demo',
          arrivedAtMs: this.nowMs,
          granted: (instance) => {
            // First come, first served.
            expect(this.line.every((other) => other === ticket || other.arrivedAtMs > ticket.arrivedAtMs)).toBe(true);
            this.line.splice(this.line.indexOf(ticket), 1);
            this.running.push({ ticket, instance });
          },
          removed: () => undefined,
        };
        this.arrivals += 1;
        this.line.push(ticket);
        if (!this.admission.enter(ticket, 5)) this.line.splice(this.line.indexOf(ticket), 1);
        return;
      }
      case 'end':
      case 'fail': {
        const [ended] = this.running.splice(one.which % Math.max(1, this.running.length), 1);
        if (ended === undefined) return;
        if (one.do === 'end') this.admission.release(ended.instance);
        else {
          this.line.push(ended.ticket);
          this.admission.again(ended.ticket, ended.instance);
        }
        return;
      }
      case 'leave': {
        const [left] = this.line.splice(one.which % Math.max(1, this.line.length), 1);
        if (left !== undefined) this.admission.leave(left);
        return;
      }
      case 'slots':
        return this.view.node(
          'n1',
          one.ready.map((ready, i) => aSlot('demo', { uid: `u${i}`, ready, address: `127.0.0.1:${1000 + i}` })),
        );
      case 'drain':
        return this.view.scaler({ draining: [`u${one.which}`] });
      case 'others':
        return this.view.otherGateway({
          id: 'other',
          url: '',
          demand: [],
          instances: [{ uid: 'u0', parks: 1, inFlight: one.inFlight, idleMs: 0 }],
        });
      case 'time':
        this.nowMs += one.ms;
        vi.advanceTimersByTime(one.ms);
    }
  }

  check(): void {
    const counts = new Map<string, number>();
    for (const { instance } of this.running) counts.set(instance.key, (counts.get(instance.key) ?? 0) + 1);
    for (const count of counts.values()) expect(count).toBeLessThanOrEqual(this.limit);
    expect(this.admission.waiting('demo')).toBe(this.line.length);
    expect(this.admission.inFlight('demo')).toBe(this.running.length);
    if (this.line.length > 0) expect(this.instances.pick('demo')).toBeUndefined();
    const told = this.admission.demand();
    expect(told.instances.reduce((sum, { inFlight }) => sum + inFlight, 0)).toBe(this.running.length);
    expect(told.demand[0]?.arrivals ?? 0).toBe(this.arrivals);
  }

  finish(): void {
    this.view.otherGateway({ id: 'other', url: '', demand: [], instances: [] });
    this.view.scaler({ draining: [] });
    this.take({ do: 'slots', ready: [true, true, true, true] });
    this.take({ do: 'time', ms: 300 });
    while (this.running.length > 0) this.take({ do: 'end', which: 0 });
    this.check();
    expect(this.line).toEqual([]);
    this.admission[Symbol.dispose]();
  }
}
