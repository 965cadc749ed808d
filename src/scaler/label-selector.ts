/** One condition of a label selector. */
type Requirement = { readonly key: string; readonly how: 'in' | 'notin' | 'exists' | 'absent'; readonly values: readonly string[] };

/** What labels must be like; all of it. */
export type LabelSelector = readonly Requirement[];

const KEY = '[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?';
const VALUE = '(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?';
const SET = new RegExp(String.raw`^(${KEY})\s+(in|notin)\s*\(([^()]*)\)$`);
const EQUALS = new RegExp(String.raw`^(${KEY})\s*(==|=|!=)\s*(${VALUE})$`);
const EXISTS = new RegExp(String.raw`^(!?)\s*(${KEY})$`);
const ONE_VALUE = new RegExp(`^${VALUE}$`);

/**
 * Reads a label selector as the API server takes them (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors). Empty:
 * everything. Undefined if it is none.
 */
export function parseLabelSelector(text: string): LabelSelector | undefined {
  if (text.trim() === '') return [];
  const parts = text.split(/,(?![^(]*\))/).map((part) => requirement(part.trim()));
  return parts.every((part) => part !== undefined) ? parts : undefined;
}

export function selects(selector: LabelSelector, labels: Readonly<Record<string, string>>): boolean {
  return selector.every(({ key, how, values }) => {
    const value = labels[key];
    if (how === 'exists') return value !== undefined;
    if (how === 'absent') return value === undefined;
    // As there: a label that is missing is not among the values.
    const isAmong = value !== undefined && values.includes(value);
    return how === 'in' ? isAmong : !isAmong;
  });
}

function requirement(text: string): Requirement | undefined {
  const [, setKey, setHow, list] = SET.exec(text) ?? [];
  if (setKey !== undefined && list !== undefined) {
    const values = list.split(',').map((value) => value.trim());
    return values.every((value) => ONE_VALUE.test(value)) ? { key: setKey, how: setHow === 'in' ? 'in' : 'notin', values } : undefined;
  }
  const [, equalKey, equalHow, value] = EQUALS.exec(text) ?? [];
  if (equalKey !== undefined && value !== undefined) return { key: equalKey, how: equalHow === '!=' ? 'notin' : 'in', values: [value] };
  const [, not, key] = EXISTS.exec(text) ?? [];
  return key === undefined ? undefined : { key, how: not === '!' ? 'absent' : 'exists', values: [] };
}
