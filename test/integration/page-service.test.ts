import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { chromiumPath, NO_CHROMIUM, OpenPage, startBrowser } from '../fixtures/browser.ts';
import { nodeService, Up } from '../fixtures/up.ts';

/** The page in a real Chromium, against the real service. */

const SLOTS = 3;
const YAML = `workloads:${nodeService('web', 'setTimeout(() => response.end(), 100);', {
  // Nothing ends while a burst goes on, which is for one stable window.
  policy: `pool: { idleSeconds: 2, stableWindowSeconds: 2, burstWindowSeconds: 1, max: ${SLOTS}, parked: ${SLOTS}, maxConcurrency: 1 }`,
})}`;
const PARKED_MS = 60_000;

const why = chromiumPath === undefined ? ` (skipped: ${NO_CHROMIUM})` : '';

describe.skipIf(chromiumPath === undefined)(`the page of a running service${why}`, () => {
  let browser: Browser;

  beforeAll(async () => {
    browser = await startBrowser();
  });

  afterAll(async () => {
    await browser?.close();
  });

  test('shows the first cold start with its reason, a burst from zero answered by restores, and the slots parked again', {
    timeout: 150_000,
  }, async () => {
    await using up = await Up.start(YAML);
    await using open = await OpenPage.open(browser, up.url);
    const { page } = open;
    await open.connection(/^Live, scaler .* leads$/, 30_000);
    await open.untilSlots('web', { parked: SLOTS }, PARKED_MS);
    expect(await page.locator('.problems .what').allTextContents()).toEqual([
      expect.stringMatching(/^web-\w+ started cold: the first of its kind$/),
    ]);
    expect(await open.dots('restore')).toBe(0);
    expect(await open.pool('web').innerText()).toMatch(/snapshot [0-9a-f]{12} ready/);
    await open.recordSlots();

    const result = await burst(open, 30);

    expect(result).toMatch(/^30 answered, 0 failed: p50 .*, p99 .*, max /);
    expect(await open.dots('restore')).toBeGreaterThan(0);
    await open.untilSlots('web', { parked: SLOTS }, PARKED_MS);
    const histories = await open.slotHistories();
    // What a gateway tells comes at most every 50 ms: a slot may be live before it was told to be restoring.
    expect(histories).toContainEqual(expect.stringMatching(/^parked restoring live (ending )?parked/));
    expect(histories.filter((states) => !/^parked( restoring)?( live)?( ending)?( making)? parked$/.test(states))).toEqual([]);
    await page.getByRole('row', { name: /^web restored [1-9]/ }).waitFor();
    // Nothing went wrong since.
    expect(await page.locator('.problems .what').count()).toBe(1);
    expect(open.errors).toEqual([]);
    expect(open.elsewhere).toEqual([]);
  });

  test('asks for the token of REKINDLE_TOKEN, refuses another, and works with it', { timeout: 150_000 }, async () => {
    const token = 'only-for-this-test';
    await using up = await Up.start(YAML, [], { REKINDLE_TOKEN: token });
    await using open = await OpenPage.open(browser, up.url);
    const { page } = open;
    const field = page.getByRole('textbox', { name: 'API token' });
    await field.waitFor();

    const unasked = await up.invoke('web');
    await field.fill('another-one');
    await page.keyboard.press('Enter');
    await page.getByText('unauthorized: this gateway has an API token').waitFor();
    await field.fill(token);
    await page.keyboard.press('Enter');
    await open.connection(/^Live, scaler .* leads$/, 30_000);
    await open.untilSlots('web', { parked: SLOTS }, PARKED_MS);
    const result = await burst(open, 6);

    expect(unasked.status).toBe(401);
    expect(await field.isVisible()).toBe(false);
    expect(result).toMatch(/^6 answered, 0 failed/);
    // The browser itself notes each refusal.
    expect(open.errors.filter((error) => !/status of 401/.test(error))).toEqual([]);
    expect(up.said).not.toContain(token);
  });
});

/** Chromium breaks the connections it has when an interface of the machine comes or goes, as with each container of another test: once more then. */
async function burst(open: OpenPage, requests: number): Promise<string> {
  for (let tries = 1; ; tries += 1) {
    const result = await open.burst('web', requests);
    if (tries === 3 || !result.includes('the network has changed')) return result;
    await open.untilSlots('web', { parked: SLOTS }, PARKED_MS);
  }
}
