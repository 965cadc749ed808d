import { expect, test } from 'vitest';
import { Draining, HOLD_MS } from '../../../src/scaler/draining.ts';
import { aNodeTruth, aSlotTruth, aView } from '../../fixtures/truths.ts';

const live = aSlotTruth({ state: 'live' });
const view = aView({ nodes: [aNodeTruth({ slots: [live] })] });
const nobody = () => false;
const somebody = () => true;

test('an idle instance is held back before it is ended', () => {
  const draining = new Draining();

  expect(draining.hold(live, 0)).toBe(false);
  expect(draining.uids).toEqual(['slot-1']);
  expect(draining.hold(live, HOLD_MS - 1)).toBe(false);
  expect(draining.hold(live, HOLD_MS)).toBe(true);
});

test('one that is held back serves again if requests wait, unless its end is queued', () => {
  const draining = new Draining();
  draining.hold(live, 0);

  draining.settle(view, nobody, nobody);
  draining.settle(view, somebody, somebody);
  expect(draining.uids).toEqual(['slot-1']);

  draining.settle(view, somebody, nobody);
  expect(draining.uids).toEqual([]);
});

test('one that drains goes on draining until its life is over', () => {
  const draining = new Draining();
  draining.drain(live, 0);

  draining.settle(view, somebody, nobody);
  expect(draining.lives).toEqual(new Set(['slot-1 0']));

  draining.settle(aView({ nodes: [aNodeTruth({ slots: [aSlotTruth({ state: 'live', parks: 1 })] })] }), nobody, nobody);
  expect(draining.uids).toEqual([]);
});

test('a new leader goes on with what drains', () => {
  const draining = new Draining();

  draining.adopt(['slot-1', 'gone'], view, 0);

  expect(draining.uids).toEqual(['slot-1']);
});

test('instances of an old description drain once one of the new is ready', () => {
  const draining = new Draining();
  const old = aSlotTruth({ uid: 'old', state: 'live', outdated: true });

  draining.drainOutdated(aView({ nodes: [aNodeTruth({ slots: [old] })] }), 0);
  expect(draining.uids).toEqual([]);

  draining.drainOutdated(aView({ nodes: [aNodeTruth({ slots: [old, live] })] }), 0);
  expect(draining.uids).toEqual(['old']);
});
