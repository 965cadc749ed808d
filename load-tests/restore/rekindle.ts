import type { TestEngine } from '../../test/fixtures/engine.ts';
import { firstAnswer } from '../lib/answer.ts';
import { ANSWER_TIMEOUT_MS, type Contender, type Round } from './contender.ts';
import type { Sample } from './samples.ts';

/** rekindle's restore into a container made for it. */
export class Rekindle implements Contender {
  readonly name = 'rekindle restore';
  readonly #engine: TestEngine;
  readonly #sample: Sample;
  #round = 0;

  constructor(deps: { engine: TestEngine; sample: Sample }) {
    this.#engine = deps.engine;
    this.#sample = deps.sample;
  }

  async prepare(): Promise<void> {
    await this.#engine.seed(this.#sample.workload, `${this.#sample.name}-seed`);
  }

  async round(): Promise<Round> {
    const started = performance.now();
    const { container, state } = await this.#engine.start(this.#sample.workload, `${this.#sample.name}-${this.#round++}`);
    const answerMs = performance.now() - started;
    await this.#engine.engine.host.remove(container.uid, { graceMs: 0 });
    if (state.at !== 'live') throw new Error(`a clone of ${this.#sample.name} was not restored: ${state.reason}`);
    return { answerMs, fromHelloMs: state.timing.readyMs ?? state.timing.restoredMs };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const container of await this.#engine.engine.host.list()) {
      if (container.workload.name === this.#sample.name) await this.#engine.engine.host.remove(container.uid, { graceMs: 0 });
    }
  }
}

/** The same container and application, started as it always was. */
export class Cold implements Contender {
  readonly name = 'cold start';
  readonly #engine: TestEngine;
  readonly #sample: Sample;
  #round = 0;

  constructor(deps: { engine: TestEngine; sample: Sample }) {
    this.#engine = deps.engine;
    this.#sample = deps.sample;
  }

  async prepare(): Promise<void> {}

  async round(): Promise<Round> {
    const { engine } = this.#engine;
    const name = `${this.#sample.name}-cold-${this.#round++}`;
    const decided = this.#engine
      .until(`${name} to be cold`, (events) =>
        events.find((event) => event.type === 'instance' && event.name === name && event.state.at === 'cold'),
      )
      .then(() => performance.now());
    const started = performance.now();
    const container = await engine.host.create(this.#sample.cold, { name, signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    const begun = await decided;
    const answered = await firstAnswer(`http://${container.addresses[0]}:${this.#sample.port}/healthz`, ANSWER_TIMEOUT_MS);
    await engine.host.remove(container.uid, { graceMs: 0 });
    return { answerMs: answered - started, fromHelloMs: answered - begun };
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
