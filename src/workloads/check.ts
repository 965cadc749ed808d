import { nearest } from './nearest.ts';

/** Where something is in a parsed file: keys and list indices from the top. */
export type Path = readonly (string | number)[];

/** One thing that is wrong: where, whether it is the key or its value, and a sentence that says what is wrong and what is allowed. */
export type Problem = { readonly path: Path; readonly at: 'key' | 'value'; readonly says: string };

/** The part of JSON schema that our schemas use. */
export type Schema = {
  readonly type?: string;
  readonly const?: unknown;
  readonly default?: unknown;
  readonly description?: string;
  readonly anyOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly patternProperties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[] | undefined;
  readonly items?: Schema;
  readonly pattern?: string;
  readonly patternErrorMessage?: string;
  readonly minLength?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minProperties?: number;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
};

/**
 * Everything about `value` that its schema does not allow, in sentences for people; empty if it fits once defaults are filled in.
 * TypeBox's own errors list every branch of a union; here the branch that was meant is found first, and only it is talked about.
 */
export function problemsOf(schema: Schema, value: unknown, path: Path = []): Problem[] {
  if (schema.anyOf) return checkUnion(schema.anyOf.flatMap(flatten), value, path);
  if (schema.const !== undefined) return checkConstant([schema], value, path);
  if (!isKind(schema.type, value))
    return [{ path, at: 'value', says: `${shown(value)}, but must be ${named(schema)}${hint(schema, value)}` }];
  if (isMapping(value)) return checkMapping(schema, value, path);
  if (Array.isArray(value)) return checkList(schema, value, path);
  if (typeof value === 'string') return checkText(schema, value, path);
  if (typeof value === 'number') return checkNumber(schema, value, path);
  return [];
}

function checkMapping(schema: Schema, value: Readonly<Record<string, unknown>>, path: Path): Problem[] {
  const problems: Problem[] = [];
  const [pattern, each] = Object.entries(schema.patternProperties ?? {})[0] ?? [];
  const known = Object.keys(schema.properties ?? {});
  for (const [key, member] of Object.entries(value)) {
    const here = [...path, key];
    const property = Object.hasOwn(schema.properties ?? {}, key) ? schema.properties?.[key] : undefined;
    if (property) problems.push(...problemsOf(property, member, here));
    else if (pattern === undefined || !each) problems.push({ path: here, at: 'key', says: unknownKey(key, known) });
    else if (!new RegExp(pattern, 'u').test(key))
      problems.push({ path: here, at: 'key', says: schema.patternErrorMessage ?? `does not match ${pattern}` });
    else problems.push(...problemsOf(each, member, here));
  }
  const lacking = needed(schema).filter((key) => !Object.hasOwn(value, key));
  // A misspelt key has been reported with the right one already. Looked for where something is wrong only: what is right is read for every pod.
  const misspelt = lacking.length === 0 ? [] : Object.keys(value).map((key) => nearest(key, known));
  for (const key of lacking) {
    if (!misspelt.includes(key)) problems.push({ path, at: 'value', says: `lacks \`${key}\`${about(schema.properties?.[key])}` });
  }
  if (Object.keys(value).length < (schema.minProperties ?? 0))
    problems.push({ path, at: 'value', says: 'is empty: give at least one entry' });
  return problems;
}

function checkList(schema: Schema, value: readonly unknown[], path: Path): Problem[] {
  const { items } = schema;
  const problems = items ? value.flatMap((item, index) => problemsOf(items, item, [...path, index])) : [];
  if (value.length < (schema.minItems ?? 0))
    problems.push({ path, at: 'value', says: 'is an empty list: give at least one entry, or leave it out' });
  if (value.length > (schema.maxItems ?? Number.POSITIVE_INFINITY))
    problems.push({ path, at: 'value', says: `has ${value.length} entries, but must have at most ${schema.maxItems}` });
  return problems;
}

function checkText(schema: Schema, value: string, path: Path): Problem[] {
  const wrong = (says: string): Problem[] => [{ path, at: 'value', says }];
  if (value.includes('\0')) return wrong('holds a NUL character, which no argument, path or variable can');
  if (value.length < (schema.minLength ?? 0)) return wrong(`is an empty text, but must be ${named(schema)}`);
  if (schema.pattern === undefined || new RegExp(schema.pattern, 'u').test(value)) return [];
  return wrong(`is ${quoted(value)}: ${schema.patternErrorMessage ?? `must match ${schema.pattern}`}`);
}

function checkNumber(schema: Schema, value: number, path: Path): Problem[] {
  const { minimum = Number.NEGATIVE_INFINITY, maximum = Number.POSITIVE_INFINITY, exclusiveMinimum = Number.NEGATIVE_INFINITY } = schema;
  if (value >= minimum && value <= maximum && value > exclusiveMinimum) return [];
  return [{ path, at: 'value', says: `is ${value}, but must be ${named(schema)}` }];
}

function checkConstant(constants: readonly Schema[], value: unknown, path: Path): Problem[] {
  if (constants.some((schema) => schema.const === value)) return [];
  const allowed = constants.map((schema) => String(schema.const));
  const near = typeof value === 'string' ? nearest(value, allowed) : undefined;
  const choice = allowed.length === 1 ? `\`${allowed[0]}\`` : `one of ${listed(allowed)}`;
  return [{ path, at: 'value', says: `${shown(value)}, but must be ${choice}${near ? `; did you mean \`${near}\`?` : ''}` }];
}

function checkUnion(branches: readonly Schema[], value: unknown, path: Path): Problem[] {
  if (branches.every((branch) => branch.const !== undefined)) return checkConstant(branches, value, path);
  const candidates = branches.filter((branch) => isKind(branch.type, value));
  if (!isMapping(value) || candidates.length < 2) {
    const only = candidates[0];
    if (only) return problemsOf(only, value, path);
    const kinds = [...new Set(branches.map((branch) => (branch.type === 'object' ? mappingWith(branches) : named(branch))))];
    return [{ path, at: 'value', says: `${shown(value)}, but must be ${kinds.join(', or ')}` }];
  }

  const marks = marksOf(candidates);
  const present = Object.keys(value).filter((key) => marks.includes(key));
  if (present.length > 1)
    return [{ path, at: 'value', says: `has ${present.map((key) => `\`${key}\``).join(' and ')}: give exactly one of ${listed(marks)}` }];
  // Without a mark, a near miss of one tells which branch was meant.
  const mark = present[0] ?? Object.keys(value).flatMap((key) => nearest(key, marks) ?? [])[0];
  const meant = candidates.find((branch) => mark !== undefined && Object.hasOwn(branch.properties ?? {}, mark));
  if (meant) return problemsOf(meant, value, path);
  return [{ path, at: 'value', says: `needs one of ${listed(marks)}` }];
}

/** The keys by which the mappings of a union are told apart: needed in one, not known to every other. */
function marksOf(branches: readonly Schema[]): string[] {
  const mappings = branches.filter((branch) => branch.type === 'object');
  return mappings.flatMap((branch) =>
    needed(branch).filter((key) => mappings.some((other) => !Object.hasOwn(other.properties ?? {}, key))),
  );
}

function mappingWith(branches: readonly Schema[]): string {
  const marks = marksOf(branches);
  const only = branches.find((branch) => branch.type === 'object');
  return marks.length === 0 ? `a mapping${about(only)}` : `a mapping with one of ${listed(marks)}`;
}

function flatten(schema: Schema): Schema[] {
  return schema.anyOf ? schema.anyOf.flatMap(flatten) : [schema];
}

function needed(schema: Schema): string[] {
  return (schema.required ?? []).filter((key) => schema.properties?.[key]?.default === undefined);
}

function unknownKey(key: string, known: readonly string[]): string {
  const near = nearest(key, known);
  const allowed = known.length === 1 ? `only ${listed(known)} is known here` : `known here are ${listed(known)}`;
  return `is not a known key${near ? `; did you mean \`${near}\`?` : ''} (${allowed})`;
}

function isKind(type: string | undefined, value: unknown): boolean {
  switch (type) {
    case 'object':
      return isMapping(value);
    case 'array':
      return Array.isArray(value);
    case 'integer':
      return Number.isSafeInteger(value);
    case 'number':
      return Number.isFinite(value);
    default:
      return typeof value === type;
  }
}

function isMapping(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** What is there, as the beginning of a sentence about it. */
function shown(value: unknown): string {
  if (value === null || value === undefined) return 'is empty';
  if (Array.isArray(value)) return 'is a list';
  if (typeof value === 'object') return 'is a mapping';
  return typeof value === 'string' ? `is the text ${quoted(value)}` : `is ${String(value)}`;
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}...` : text);
}

/** What is wanted, in words. */
function named(schema: Schema): string {
  switch (schema.type) {
    case 'object':
      return `a mapping${about(schema)}`;
    case 'array':
      return `a list${schema.items ? `, each entry ${schema.items.anyOf ? mappingWith(schema.items.anyOf.flatMap(flatten)) : named(schema.items)}` : ''}`;
    case 'boolean':
      return 'true or false';
    case 'string':
      return `a text${about(schema)}`;
    default:
      return `a ${schema.type === 'integer' ? 'whole ' : ''}number${range(schema)}${about(schema)}`;
  }
}

function range({ minimum, maximum, exclusiveMinimum }: Schema): string {
  if (minimum !== undefined && maximum !== undefined) return ` from ${minimum} to ${maximum}`;
  if (minimum !== undefined) return ` of at least ${minimum}`;
  if (exclusiveMinimum === undefined) return '';
  return ` above ${exclusiveMinimum}${maximum === undefined ? '' : `, at most ${maximum}`}`;
}

function about(schema: Schema | undefined): string {
  return schema?.description === undefined ? '' : ` (${schema.description})`;
}

function hint(schema: Schema, value: unknown): string {
  if (schema.type === 'string' && (typeof value === 'number' || typeof value === 'boolean')) return `: put it in quotes, "${value}"`;
  if (schema.type !== 'string' && typeof value === 'string' && /^(\d+(\.\d+)?|true|false)$/.test(value))
    return `: write it without quotes, ${value}`;
  if (schema.type === 'array' && value !== null && typeof value !== 'object') return `: write [${String(value)}]`;
  return '';
}

/** `a`, `b` and `c`. */
function listed(words: readonly string[]): string {
  const ticked = [...new Set(words)].map((word) => `\`${word}\``);
  return ticked.length < 2 ? ticked.join('') : `${ticked.slice(0, -1).join(', ')} and ${ticked.at(-1)}`;
}
