import { type Logger, pino } from 'pino';

export type Log = Logger;

/** JSON lines on stderr; `level` as in pino. One child per component: `log.child({ component: 'agent' })`. */
export function createLog(level: string): Log {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 2, sync: true }));
}

/** Fields that every line has, and that say nothing to a person. */
const FRAME = ['level', 'time', 'component', 'loop', 'msg'];

/**
 * Warnings and errors as sentences, for commands that a person runs. The agent's warnings are left out: they tell of events, which commands tell in
 * words of their own.
 */
export function createLogForPeople(write: (line: string) => void): Log {
  const written = new Set<string>();
  const line = (json: string) => {
    const entry: Record<string, unknown> = JSON.parse(json);
    if (entry.component === 'agent' && entry.level === pino.levels.values.warn) return;
    const sentence = `warning: ${[entry.msg, details(entry)].filter((text) => text !== '').join(': ')}\n`;
    // Once is enough for a person.
    if (!written.has(sentence)) write(sentence);
    written.add(sentence);
  };
  return pino({ level: 'warn', base: null }, { write: line });
}

/** What is wrong, where the entry says that; else every field that it has. */
function details(entry: Readonly<Record<string, unknown>>): string {
  const { err, problem } = entry;
  if (typeof problem === 'string') return problem;
  if (typeof err === 'object' && err !== null && 'message' in err) return String(err.message);
  const fields = Object.entries(entry).filter(([name]) => !FRAME.includes(name));
  return fields.map(([name, value]) => `${name} ${typeof value === 'string' ? value : JSON.stringify(value)}`).join(', ');
}

export const silentLog: Log = pino({ level: 'silent' });
