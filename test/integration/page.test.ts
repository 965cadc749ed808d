import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { exec } from '../../src/lib/exec.ts';
import { chromiumPath, NO_CHROMIUM, OpenPage, startBrowser } from '../fixtures/browser.ts';
import { lowContrasts } from '../fixtures/contrast.ts';
import { aNode, aPool, aProblem, aSnapshot, aStart, busyState, emptyState, enter, FakeGateway, slots } from '../fixtures/fake-gateway.ts';
import { until } from '../fixtures/until.ts';

/** The page in a real Chromium, against a gateway that plays what a test wants to see. */

const ROOT = join(import.meta.dirname, '..', '..');

test('what the page takes from the API has the types of its schemas', async () => {
  const tsc = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');

  const checked = await exec(process.execPath, [tsc, '--noEmit', '-p', join(ROOT, 'src', 'gateway', 'page')], { timeoutMs: 50_000 });

  expect(checked.stdout).toBe('');
  expect(checked.status).toBe(0);
});

const why = chromiumPath === undefined ? ` (skipped: ${NO_CHROMIUM})` : '';

describe.skipIf(chromiumPath === undefined)(`the page${why}`, () => {
  let browser: Browser;

  beforeAll(async () => {
    browser = await startBrowser();
  });

  afterAll(async () => {
    await browser?.close();
  });

  test('shows every pool with its slots, numbers and snapshot', async () => {
    await using gateway = await new FakeGateway({ state: busyState() }).start();
    await using open = await OpenPage.open(browser, gateway.url);

    await open.pool('node').waitFor();

    expect(await open.slotStates('node')).toEqual({ live: 18, restoring: 3, parked: 18, making: 2, ending: 1 });
    expect(await open.slotStates('python')).toEqual({ cold: 2, failed: 1, parked: 2 });
    const node = await open.pool('node').innerText();
    expect(node).toMatch(/snapshot [0-9a-f]{12} ready/);
    expect(node).toMatch(/Instances\s+18\s+of 24 wanted, 2–50 allowed\s+Waiting\s+6\s+In flight\s+14/);
    expect(await open.pool('java').innerText()).toContain('Starts cold: the application maps a device file');
    expect(open.errors).toEqual([]);
    expect(open.elsewhere).toEqual([]);
  });

  test('shows a burst going by: squares are parked, restoring, live; the plot gets dots; the result is told', async () => {
    const state = { ...emptyState(), pools: [aPool('node', { slots: slots('node', 12) })] };
    await using gateway = await new FakeGateway({ state, restoreMs: 200 }).start();
    await using open = await OpenPage.open(browser, gateway.url);
    await open.pool('node').waitFor();
    await open.recordSlots();

    const result = await open.burst('node', 24);

    expect(result).toMatch(/^24 answered, 0 failed: p50 \d+ ms, p99 \d+ ms, max \d+ ms$/);
    expect(gateway.bursts).toEqual([{ workload: 'node', requests: 24, path: '/' }]);
    await open.untilSlots('node', { live: 12 });
    expect(await open.slotHistories()).toEqual(Array.from({ length: 12 }, () => 'parked restoring live'));
    await until('the dots are there', async () => (await open.dots('restore')) === 12);
    expect(await open.dots('cold')).toBe(0);
    expect(open.errors).toEqual([]);
  });

  test('sends one burst at a time, and says what the API said when it refuses one', async () => {
    const state = { ...emptyState(), pools: [aPool('node', { slots: slots('node', 4) })] };
    await using gateway = await new FakeGateway({ state, restoreMs: 1_500 }).start();
    await using open = await OpenPage.open(browser, gateway.url);
    const card = open.pool('node');
    const button = card.getByRole('button', { name: 'Burst' });
    await button.click();
    await card.getByText('Sending 50 requests…').waitFor();

    expect(await button.isDisabled()).toBe(true);
    await button.click({ force: true });
    await card.getByText('50 answered').waitFor();
    expect(await button.isDisabled()).toBe(false);
    expect(gateway.bursts).toHaveLength(1);
    gateway.refuseBurst = { status: 503, code: 'agent_unavailable', message: 'no node has room <b>now</b>' };

    const result = await open.burst('node', 3);

    // Markup in what is told stays text.
    expect(result).toBe('agent_unavailable: no node has room <b>now</b>');
    expect(await card.locator('b').count()).toBe(0);
  });

  test('follows every kind of change', async () => {
    await using gateway = await new FakeGateway({ state: emptyState() }).start();
    await using open = await OpenPage.open(browser, gateway.url);
    const { page } = open;
    await page.getByText('No workloads.').waitFor();
    const pool = aPool('node', { slots: slots('node', 2) });

    gateway.tell('pool', pool);
    await open.untilSlots('node', { parked: 2 });
    enter(pool.slots[0] ?? expect.fail(), 'failed', { error: 'it ended with status 1' });
    pool.slots.pop();
    gateway.tell('pool', pool);
    await page.getByRole('option', { name: /failed since .*it ended with status 1/ }).waitFor();
    gateway.tell('start', aStart('node', 'restore', 40));
    gateway.tell('start', aStart('node', 'cold', 1900));
    await page.getByRole('row', { name: 'node restored 1 40 ms' }).waitFor();
    await page.getByRole('row', { name: 'node started cold 1 1.90 s' }).waitFor();
    gateway.tell('nodes', [aNode('node-7', { leaving: true })]);
    await page.getByRole('row', { name: /^node-7 leaving/ }).waitFor();
    gateway.tell('snapshots', [aSnapshot('node', { quarantined: 'three restores failed', nodes: ['node-7'] })]);
    await page.getByRole('row', { name: /^node .* 46 MiB 3 h 0 min 83 ms ✕ quarantined: three restores failed node-7/ }).waitFor();
    gateway.tell('problem', aProblem('first', { workload: 'node' }));
    gateway.tell('problem', aProblem('second', { node: 'node-7' }));
    await page.getByText('second').waitFor();
    expect(await page.locator('.problems .what').allTextContents()).toEqual(['second', 'first']);
    gateway.tell('connected', { connected: false, scaler: 'up-1' });
    await open.connection(/^Redis is away: what is shown may be old\.$/);
    gateway.tell('connected', { connected: true });
    await open.connection(/^No scaler leads/);
    gateway.tell('later-than-this-page', { any: 'thing' });
    gateway.tell('gone', 'node');
    await page.getByText('No workloads.').waitFor();
    expect(open.errors).toEqual([]);
  });

  test('says that the gateway is away, and shows it again as soon as it is back', async () => {
    const state = { ...emptyState(), pools: [aPool('node', { slots: slots('node', 2) })] };
    await using gateway = await new FakeGateway({ state }).start();
    await using open = await OpenPage.open(browser, gateway.url);
    await open.connection(/^Live, scaler up-1 leads$/);

    await gateway.stop();
    await open.connection(/^Reconnecting.*What is shown is of \d\d:\d\d:\d\d\.$/);
    expect(await open.slotStates('node')).toEqual({ parked: 2 });
    state.pools = [aPool('python', { slots: slots('python', 3) })];
    await gateway.start();

    await open.connection(/^Live, scaler up-1 leads$/);
    await open.pool('python').waitFor();
    expect(await open.pool('node').count()).toBe(0);
  });

  test('asks for the API token, keeps it for the tab, and says when it is wrong', async () => {
    const state = { ...emptyState(), pools: [aPool('node', { slots: slots('node', 2) })] };
    await using gateway = await new FakeGateway({ state, token: 'right' }).start();
    await using open = await OpenPage.open(browser, gateway.url);
    const { page } = open;
    const field = page.getByRole('textbox', { name: 'API token' });
    await field.waitFor();
    await until('the field has the focus', () => field.evaluate((element) => element.matches(':focus')));

    await page.keyboard.type('wrong');
    await page.keyboard.press('Enter');
    await page.getByText('unauthorized: this gateway asks for its API token').waitFor();
    await page.keyboard.type('right');
    await page.keyboard.press('Enter');
    await open.pool('node').waitFor();

    expect(await field.isVisible()).toBe(false);
    expect(await open.burst('node', 2)).toMatch(/^2 answered/);
    await page.reload();
    await open.pool('node').waitFor();
    await page.getByRole('button', { name: 'Forget the API token' }).click();
    await field.waitFor();
  });

  test('can be used by the keyboard alone', async () => {
    const state = { ...emptyState(), pools: [aPool('node', { slots: slots('node', 60) })] };
    await using gateway = await new FakeGateway({ state }).start();
    await using open = await OpenPage.open(browser, gateway.url, { viewport: { width: 700, height: 900 } });
    const { page } = open;
    await open.pool('node').waitFor();
    const focused = async () => String(await page.evaluate('document.activeElement.ariaLabel ?? document.activeElement.textContent'));
    const ringed = async () => (await page.evaluate('getComputedStyle(document.activeElement).outlineStyle')) === 'solid';
    const seen: string[] = [];

    for (let stop = 0; stop < 9; stop += 1) {
      await page.keyboard.press('Tab');
      seen.push(await focused());
      expect(await ringed(), `focus is seen on ${seen.at(-1)}`).toBe(true);
      if (/^node-1: parked/.test(seen.at(-1) ?? '')) break;
    }

    expect(seen[0]).toBe('Skip to the pools');
    expect(seen.at(-1)).toMatch(/^node-1: parked since \d\d:\d\d:\d\d, on node-1$/);
    await page.keyboard.press('ArrowRight');
    expect(await focused()).toMatch(/^node-2: /);
    await page.keyboard.press('ArrowDown');
    const below = await focused();
    expect(Number(/^node-(\d+):/.exec(below)?.[1])).toBeGreaterThan(10);
    expect(await open.pool('node').locator('.line').innerText()).toContain(below.slice(0, 20));
    await page.keyboard.press('ArrowUp');
    expect(await focused()).toMatch(/^node-2: /);
    await page.keyboard.press('End');
    expect(await focused()).toMatch(/^node-60: /);
    // One stop of Tab for all squares: the next one is past them.
    await page.keyboard.press('Tab');
    expect(await focused()).not.toMatch(/^node-/);
    await open.pool('node').getByRole('button', { name: 'Burst' }).focus();
    await page.keyboard.press('Enter');
    await open.pool('node').getByText('50 answered').waitFor();
    expect(await focused()).toContain('Burst');
  });

  test('keeps the focus among the squares when the slot that had it goes', async () => {
    const pool = aPool('node', { slots: slots('node', 5) });
    await using gateway = await new FakeGateway({ state: { ...emptyState(), pools: [pool] } }).start();
    await using open = await OpenPage.open(browser, gateway.url);
    await open.page.getByRole('option', { name: /^node-2:/ }).focus();

    pool.slots.splice(1, 1);
    gateway.tell('pool', pool);

    await until('node-3 has it', () =>
      open.page.getByRole('option', { name: /^node-3:/ }).evaluate((element) => element.matches(':focus')),
    );
  });

  test('is told to screen readers: landmarks, headings, names, and one region that speaks seldom', async () => {
    const state = { ...emptyState(), pools: [aPool('node', { slots: slots('node', 8) })] };
    await using gateway = await new FakeGateway({ state }).start();
    await using open = await OpenPage.open(browser, gateway.url);
    const { page } = open;
    const region = page.getByRole('status');
    await until('the pools are told', async () => (await region.textContent()) === 'node: 0 live, 0 restoring, 0 waiting');
    await page.evaluate(`window.spoken = []; new MutationObserver(() => window.spoken.push(document.querySelector('#announcer').textContent))
      .observe(document.querySelector('#announcer'), { childList: true, characterData: true, subtree: true })`);

    await open.burst('node', 16);
    await until('the end is told', async () => (await region.textContent()) === 'node: 8 live, 0 restoring, 0 waiting', 15_000);

    expect(await page.evaluate('window.spoken')).toEqual([
      'node: Sending 16 requests…',
      expect.stringMatching(/^node: 16 answered, 0 failed/),
      'node: 8 live, 0 restoring, 0 waiting',
    ]);
    expect(await page.locator('[aria-live], [role=alert], [role=status]').count()).toBe(1);
    const tree = await page.locator('body').ariaSnapshot();
    for (const part of [
      'banner:',
      'main:',
      'contentinfo:',
      'heading "rekindle" [level=1]',
      'heading "Pools" [level=2]',
      'heading "node" [level=3]',
      'listbox "Slots of node":',
      'group "Burst at node":',
      'button "Burst: send requests to node"',
      'spinbutton "Requests": "16"',
      'heading "Problems" [level=2]',
      'region "Snapshots"',
      'region "Nodes"',
    ]) {
      expect(tree).toContain(part);
    }
    expect(tree).toMatch(/option "node-1: live since \d\d:\d\d:\d\d, on node-1, restored in \d+ ms"/);
    expect(tree).toMatch(/img "Start latency on a logarithmic scale\. 8 instances restored, half of them within \d+ ms\./);
    expect(open.errors).toEqual([]);
  });

  test.each(['light', 'dark'] as const)('can be read in the %s colours: contrast is AA', async (colorScheme) => {
    await using gateway = await new FakeGateway({ state: busyState() }).start();
    await using open = await OpenPage.open(browser, gateway.url, { colorScheme });
    await open.pool('node').waitFor();
    gateway.refuseBurst = { status: 503, code: 'agent_unavailable', message: 'no room' };
    await open.burst('python', 1);
    gateway.tell('connected', { connected: false });
    await open.connection(/^Redis is away/);

    const { checked, low } = await lowContrasts(open.page);

    expect(checked).toBeGreaterThan(150);
    expect(low).toEqual([]);
  });

  test.each([
    { name: '360 px wide', width: 360, height: 800, deviceScaleFactor: 1 },
    { name: '1280 px wide at 200 %', width: 640, height: 450, deviceScaleFactor: 2 },
  ])('fits a window $name', async ({ width, height, deviceScaleFactor }) => {
    await using gateway = await new FakeGateway({ state: busyState() }).start();
    await using open = await OpenPage.open(browser, gateway.url, { viewport: { width, height }, deviceScaleFactor });
    await open.pool('node').waitFor();

    expect(await open.page.evaluate('document.documentElement.scrollWidth')).toBe(width);
    expect(await open.burst('node', 5)).toMatch(/answered/);
  });

  test('moves nothing by itself, so that there is nothing to ask less of', async () => {
    await using gateway = await new FakeGateway({ state: busyState() }).start();
    await using open = await OpenPage.open(browser, gateway.url, { reducedMotion: 'no-preference' });
    await open.pool('node').waitFor();

    expect(await open.page.evaluate('document.getAnimations().length')).toBe(0);
  });

  test('stays smooth with 500 slots that all change twenty times a second', async () => {
    const pool = aPool('many', { max: 500, slots: slots('many', 500) });
    await using gateway = await new FakeGateway({ state: { ...emptyState(), pools: [pool] } }).start();
    await using open = await OpenPage.open(browser, gateway.url);
    await open.untilSlots('many', { parked: 500 });
    const session = await open.page.context().newCDPSession(open.page);
    await session.send('Performance.enable');
    const busySeconds = async () => {
      const { metrics } = await session.send('Performance.getMetrics');
      return metrics.find(({ name }) => name === 'TaskDuration')?.value ?? Number.NaN;
    };
    const states = ['restoring', 'live', 'ending', 'parked'] as const;
    const before = await busySeconds();

    const changes = 40;
    for (let change = 0; change < changes; change += 1) {
      for (const slot of pool.slots) enter(slot, states[change % 4] ?? 'parked', { inFlight: change % 2 });
      gateway.tell('pool', pool);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await open.untilSlots('many', { parked: 500 });

    const perChangeMs = ((await busySeconds()) - before) * (1000 / changes);
    console.log(`500 slots: ${perChangeMs.toFixed(1)} ms of the page's main thread per change of all of them`);
    // About 20 ms when nothing else runs; others share the cores. A page that falls behind draws fewer frames, not more.
    expect(perChangeMs).toBeLessThan(100);
  });

  test('loads again by itself when a part of it did not arrive', async () => {
    const state = { ...emptyState(), pools: [aPool('node', { slots: slots('node', 2) })] };
    await using gateway = await new FakeGateway({ state }).start();
    const context = await browser.newContext();
    let failures = 0;
    // As when a network interface of the machine comes or goes just then.
    for (const part of ['page.css', 'slot-grid.js', 'page.js']) {
      await context.route(
        `**/${part}`,
        (route) => {
          failures += 1;
          return route.abort('internetdisconnected');
        },
        { times: 1 },
      );
    }
    const page = await context.newPage();

    await page.goto(gateway.url);

    await page.getByRole('article', { name: 'node' }).waitFor();
    expect(failures).toBe(3);
    expect(await page.evaluate('sessionStorage.length')).toBe(0);
    await context.close();
  });

  test('reads server-sent events however they are cut up', async () => {
    await using gateway = await new FakeGateway({ state: emptyState() }).start();
    await using open = await OpenPage.open(browser, gateway.url);
    const text =
      'event: a\r\ndata: {"x":\r\ndata:1}\r\n\r\n: comment\n\ndata: ü€😀\n\nid: 7\nretry: 5\nevent: empty\n\nevent:b\rdata\r\rdata: cut off';

    const parsed = await open.page.evaluate(`(async () => {
      const { readEvents } = await import('/sse.js');
      const bytes = new TextEncoder().encode(${JSON.stringify(text)});
      const results = new Set();
      for (let size = 1; size <= bytes.length; size += 1) {
        const events = [];
        const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) => bytes.slice(at * size, (at + 1) * size));
        const body = new ReadableStream({ pull: (to) => { const piece = pieces.shift(); if (piece) to.enqueue(piece); else to.close(); } });
        await readEvents(body, 5000, (event) => events.push(event));
        results.add(JSON.stringify(events));
      }
      return [...results].map((json) => JSON.parse(json));
    })()`);

    const expected = [
      { event: 'a', data: '{"x":\n1}' },
      { event: 'message', data: 'ü€😀' },
      { event: 'b', data: '' },
    ];
    expect(parsed).toEqual([expected]);
  });
});
