import { Value } from 'typebox/value';
import { RekindleError } from '../lib/errors.ts';
import { problemsOf, type Schema } from './check.ts';
import { nearest } from './nearest.ts';
import { Policy, type PolicySpec } from './workload.ts';

/** Longer than any policy, and as much as a description of a pod may have, which all of it becomes part of. */
const MAX_BYTES = 64 * 1024;
/** What somebody wants to read at once; whoever wrote thousands of wrong lines wrote something else. */
const MAX_PROBLEMS = 20;
const MAX_NAME_CHARS = 60;

/**
 * Reads the `cr-properties` text of a ConfigMap: lines `cr.SECTION.KEY=value` with the names of `rekindle.yaml`, values plain (probes and
 * actions are shell commands), spaces around both ignored, `#` and `!` begin a comment line. Every default is filled in.
 * Throws `config_invalid` that lists every problem as WHERE:line; `where` names the ConfigMap.
 */
export function parsePolicyProperties(text: string, where: string): PolicySpec {
  if (Buffer.byteLength(text) > MAX_BYTES)
    throw new RekindleError('config_invalid', `${where} has more than ${MAX_BYTES} bytes of properties: that is no policy`);
  const said: string[] = [];
  const lineOf = new Map<string, number>();
  const sections: Record<Section, Record<string, unknown>> = { container: {}, checkpoint: {}, restore: {}, pool: {} };
  for (const [index, raw] of text.split(/\r\n|\r|\n/).entries()) {
    if (said.length >= MAX_PROBLEMS) break;
    const line = raw.trim();
    if (line === '' || line.startsWith('#') || line.startsWith('!')) continue;
    const equals = line.indexOf('=');
    const name = (equals < 0 ? line : line.slice(0, equals)).trim();
    const wrong = (says: string) => said.push(`${where}:${index + 1}: ${shortened(name)} ${says}`);
    const key = KEYS.get(name);
    if (equals < 0) wrong('has no value: write `key=value`, one per line');
    else if (!key) wrong(unknownName(name));
    else if (lineOf.has(key.name)) wrong(`is given twice, first in line ${lineOf.get(key.name)}: keep one`);
    else {
      lineOf.set(key.name, index + 1);
      sections[key.section][key.name.slice(key.section.length + 1)] = plainValue(line.slice(equals + 1).trim(), key.schema);
    }
  }
  const problems = problemsOf(Policy, sections);
  said.push(...problems.map(({ path, says }) => `${where}:${lineOf.get(path.slice(0, 2).join('.')) ?? 1}: cr.${path.join('.')} ${says}`));
  const full = Value.Default(Policy, sections);
  if (said.length === 0 && Value.Check(Policy, full)) return full;
  throw new RekindleError(
    'config_invalid',
    `${where} has ${said.length} problem${said.length === 1 ? '' : 's'}:\n${said.map((line) => `  ${line}`).join('\n')}`,
  );
}

type Section = 'container' | 'checkpoint' | 'restore' | 'pool';
type Key = { readonly section: Section; readonly name: string; readonly schema: Schema };

const keysOf = (section: Section, properties: Readonly<Record<string, Schema>>): [string, Key][] =>
  // A list has no form on one line of properties.
  Object.entries(properties).flatMap(([key, schema]) =>
    schema.type === 'array' ? [] : [[`cr.${section}.${key}`, { section, name: `${section}.${key}`, schema }]],
  );

const { container, checkpoint, restore, pool } = Policy.properties;

/** Every property by its name in the text. */
const KEYS: ReadonlyMap<string, Key> = new Map([
  ...keysOf('container', container.properties),
  ...keysOf('checkpoint', checkpoint.properties),
  ...keysOf('restore', restore.properties),
  ...keysOf('pool', pool.properties),
]);

function shortened(name: string): string {
  return name.length > MAX_NAME_CHARS ? `${name.slice(0, MAX_NAME_CHARS - 3)}...` : name;
}

function unknownName(name: string): string {
  const near = nearest(name, [...KEYS.keys()]);
  return `is not a known key${near ? `; did you mean \`${near}\`?` : ''} (known are ${[...KEYS.keys()].join(', ')})`;
}

/** Properties are all text: numbers and booleans are what the schema wants to be such. */
function plainValue(text: string, schema: Schema): unknown {
  if (schema.type === 'boolean' && (text === 'true' || text === 'false')) return text === 'true';
  if ((schema.type === 'integer' || schema.type === 'number') && /^-?\d+(\.\d+)?$/.test(text)) return Number(text);
  return text;
}
