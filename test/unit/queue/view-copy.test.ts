import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ViewCopy } from '../../../src/queue/view-copy.ts';
import { TTL_MS } from '../../../src/queue/view-wire.ts';
import { aGatewayTruth, aNodeTruth, aSlotTruth, aWorkloadTruth } from '../../fixtures/truths.ts';

const WRITER = 'abcdef012345';
const OTHER = '543210fedcba';
const text = (said: unknown, number = 1, writer = WRITER) => `${writer}.${number}\n${JSON.stringify(said)}`;

test('what is told is there, with when it was heard', () => {
  const copy = new ViewCopy();
  const node = aNodeTruth({ slots: [aSlotTruth()] });

  expect(copy.hear('node:a', text(node), 7)).toBe('new');
  expect(copy.hear('gateway:g', text(aGatewayTruth()), 8)).toBe('new');
  expect(copy.hear('scaler', text({ id: 's', draining: [], desired: { web: 1 }, bursts: [] }), 9)).toBe('new');
  expect(copy.hear('workloads', text([aWorkloadTruth()]), 9)).toBe('new');

  expect(copy.view.nodes.get('a')).toEqual({ said: node, heardAtMs: 7 });
  expect(copy.view.gateways.get('g')?.heardAtMs).toBe(8);
  expect(copy.view.scaler?.said.desired).toEqual({ web: 1 });
  expect(copy.view.workloads?.get('web')?.revision).toBe('r1');
});

test('an older text of the same writer changes nothing, whichever way it comes', () => {
  const copy = new ViewCopy();
  copy.hear('node:a', text(aNodeTruth({ cores: 8 }), 2), 10);

  expect(copy.hear('node:a', text(aNodeTruth({ cores: 1 }), 1), 11)).toBe('known');
  expect(copy.lacks('node:a', `${WRITER}.2\n{`)).toBe(false);
  expect(copy.lacks('node:a', `${WRITER}.3\n{`)).toBe(true);
  expect(copy.view.nodes.get('a')?.said.cores).toBe(8);
});

test('a new writer of the same name replaces the one before, unless its text is older', () => {
  const copy = new ViewCopy();
  copy.hear('node:a', text(aNodeTruth({ agent: 'second' }), 1, OTHER), 10);

  expect(copy.hear('node:a', text(aNodeTruth({ agent: 'first' }), 99), 5)).toBe('known');
  expect(copy.hear('node:a', text(aNodeTruth({ agent: 'third' }), 1), 20)).toBe('new');
  expect(copy.view.nodes.get('a')?.said.agent).toBe('third');
});

test('an empty text takes back what its own writer told, and no other', () => {
  const copy = new ViewCopy();
  copy.hear('node:a', text(aNodeTruth()), 1);

  expect(copy.hear('node:a', `${OTHER}.9\n`, 2)).toBe('known');
  expect(copy.view.nodes.size).toBe(1);
  expect(copy.hear('node:a', `${WRITER}.2\n`, 3)).toBe('new');
  expect(copy.view.nodes.size).toBe(0);
});

test('what is not told again is forgotten after its time, but for workloads', () => {
  const copy = new ViewCopy();
  copy.hear('node:a', text(aNodeTruth()), 0);
  copy.hear('workloads', text([aWorkloadTruth()]), 0);

  expect(copy.expire(TTL_MS - 1, 0)).toBe(false);
  expect(copy.expire(TTL_MS, TTL_MS + 10)).toBe(false);
  expect(copy.expire(TTL_MS, 0)).toBe(true);

  expect(copy.view.nodes.size).toBe(0);
  expect(copy.view.workloads?.size).toBe(1);
});

test('a truth that is of another name, or not of its schema, is malformed and changes nothing', () => {
  const copy = new ViewCopy();
  const malformed = [aNodeTruth({ name: 'b' }), { ...aNodeTruth(), more: 1 }, { ...aNodeTruth(), cores: 0 }, null, [], 'x'];

  for (const [index, said] of malformed.entries()) expect(copy.hear('node:a', text(said, index), 0)).toBe('malformed');

  expect(copy.view.nodes.size).toBe(0);
});

test('no text crashes it', () => {
  const copy = new ViewCopy();
  let number = 0;
  const names = fc.oneof(fc.constantFrom('node:a', 'gateway:g', 'scaler', 'workloads', 'node:', ':', ''), fc.string());
  const mangled = fc.tuple(fc.json(), fc.nat(300), fc.nat(300), fc.string()).map(([json, from, to, junk]) => {
    const whole = text(json.length % 2 === 0 ? aNodeTruth({ slots: [aSlotTruth()] }) : JSON.parse(json), ++number);
    return whole.slice(0, from) + junk + whole.slice(Math.min(from, to));
  });
  fc.assert(
    fc.property(
      names,
      fc.oneof(
        fc.string(),
        mangled,
        fc.json().map((json) => `${WRITER}.${++number}\n${json}`),
      ),
      (name, said) => {
        expect(['new', 'known', 'malformed']).toContain(copy.hear(name, said, 0));
        copy.expire(1e9, 0);
      },
    ),
    { numRuns: 5_000 },
  );
});
