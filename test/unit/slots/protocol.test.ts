import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatAgentLine, LineSplitter, parseSlotLine } from '../../../src/slots/protocol.ts';

describe('what a slot says', () => {
  test('is understood', () => {
    expect(parseSlotLine('hello 1 pod-1 web undecided')).toEqual({
      say: 'hello',
      hello: { uid: 'pod-1', container: 'web', state: 'undecided' },
    });
    expect(parseSlotLine('hello 1 pod-1 web parked')).toEqual({ say: 'hello', hello: { uid: 'pod-1', container: 'web', state: 'parked' } });
    expect(parseSlotLine('hello 1 pod-1 web live 7')).toEqual({
      say: 'hello',
      hello: { uid: 'pod-1', container: 'web', state: 'live', pid: 7 },
    });
    expect(parseSlotLine('proved')).toEqual({ say: 'proved' });
    expect(parseSlotLine('exit 0')).toEqual({ say: 'exit', status: 0 });
    expect(parseSlotLine('exit 255')).toEqual({ say: 'exit', status: 255 });
    expect(parseSlotLine('parked 143')).toEqual({ say: 'parked', status: 143 });
    expect(parseSlotLine('can again')).toEqual({ say: 'can', words: ['again'] });
    expect(parseSlotLine('can again something-newer')).toEqual({ say: 'can', words: ['again', 'something-newer'] });
  });

  test.each([
    '',
    ' ',
    'hello',
    'hello 1 pod web',
    'hello 2 pod web undecided',
    'hello 1 pod  web undecided',
    'hello 1 pod web undecided ',
    ' hello 1 pod web undecided',
    'hello 1 pod web undecided 7',
    'hello 1 pod web claimed',
    'hello 1 pod web live',
    'hello 1 pod web live 1',
    'hello 1 pod web live 07',
    'hello 1 pod web live 4194305',
    'hello 1 p\u00f6d web undecided',
    `hello 1 ${'x'.repeat(254)} web undecided`,
    'hello 1 pod web undecided\r',
    'hello 1 pod\0 web undecided',
    'proved 1',
    'PROVED',
    'exit',
    'exit -1',
    'exit 256',
    'exit 007',
    'exit 1 2',
    'parked',
    'parked 256',
    'parked again',
    'can',
    'can ',
    'can  again',
    'can Again',
    `can ${'x'.repeat(33)}`,
    `can${' x'.repeat(17)}`,
    'claim',
    'GET / HTTP/1.1',
  ])('%j is nonsense', (line) => {
    expect(parseSlotLine(line)).toBeUndefined();
  });

  test('no input whatever throws', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary' }), (line) => parseSlotLine(line) === undefined || line.length < 600));
  });
});

describe('what an agent says', () => {
  test('is one line', () => {
    expect(formatAgentLine({ say: 'prove', nonce: 'aZ09_-890123456' })).toBe('prove aZ09_-890123456\n');
    expect(formatAgentLine({ say: 'restored', pid: 12 })).toBe('restored 12\n');
    expect(formatAgentLine({ say: 'end', graceMs: 0 })).toBe('park 0\n');
    expect(formatAgentLine({ say: 'end', graceMs: 3_600_000 })).toBe('park 3600000\n');
    for (const say of ['can', 'wait', 'claim', 'cold', 'park'] as const) expect(formatAgentLine({ say })).toBe(`${say}\n`);
  });

  test.each(['', 'sixteen-chars-xx', 'two words', 'a\ncold', 'n\u00f6'])('never holds the nonce %j', (nonce) => {
    expect(() => formatAgentLine({ say: 'prove', nonce })).toThrow('a nonce is');
  });

  test.each([0, 1, -5, 1.5, Number.NaN, 4_194_305])('never holds the PID %d', (pid) => {
    expect(() => formatAgentLine({ say: 'restored', pid })).toThrow('PID');
  });

  test.each([-1, 0.5, Number.NaN, 3_600_001])('never holds the grace %d', (graceMs) => {
    expect(() => formatAgentLine({ say: 'end', graceMs })).toThrow('a grace is');
  });
});

describe('the line splitter', () => {
  test('gives the same lines however the bytes are cut', () => {
    const whole = fc.array(fc.stringMatching(/^[ -~]{0,20}$/));
    fc.assert(
      fc.property(whole, fc.infiniteStream(fc.integer({ min: 1, max: 9 })), (lines, cuts) => {
        const splitter = new LineSplitter({ limitBytes: 20 });
        const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(''));

        const got: string[] = [];
        for (let at = 0; at < bytes.length; ) {
          const size = cuts.next().value ?? 1;
          got.push(...(splitter.push(bytes.subarray(at, at + size)) ?? ['too long']));
          at += size;
        }

        expect(got).toEqual(lines);
      }),
    );
  });

  test('gives up on a line over its limit, whether it has ended or not', () => {
    expect(new LineSplitter({ limitBytes: 4 }).push(Buffer.from('1234\n1234'))).toEqual(['1234']);
    expect(new LineSplitter({ limitBytes: 4 }).push(Buffer.from('12345'))).toBeUndefined();
    expect(new LineSplitter({ limitBytes: 4 }).push(Buffer.from('12345\n'))).toBeUndefined();
    const splitter = new LineSplitter({ limitBytes: 4 });
    splitter.push(Buffer.from('123'));
    expect(splitter.push(Buffer.from('45'))).toBeUndefined();
  });
});
