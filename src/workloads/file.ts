import { dirname, resolve } from 'node:path';
import { Value } from 'typebox/value';
import { type Document, isAlias, isMap, isNode, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml';
import { RekindleError } from '../lib/errors.ts';
import { type Path, type Problem, problemsOf } from './check.ts';
import { brokenRules, brokenTogether } from './rules.ts';
import { type ContainerSpec, RekindleFile, Workload, type WorkloadSpec } from './workload.ts';

/**
 * Reads a `rekindle.yaml`: its workloads in the order of the file, every default filled in, `from:`, image files and (with
 * `rootfs: host`) a command that begins with `./` made absolute against `baseDir` (an absolute path; the directory of `fileName` unless given), volumes sorted so that none is mounted over an earlier one.
 * Throws `config_invalid` that lists every problem, one per line, each with file:line:column and the path of the key.
 */
export function parseRekindleFile(text: string, fileName: string, baseDir: string = dirname(fileName)): WorkloadSpec[] {
  const lines = new LineCounter();
  const say = (offset: number, path: Path, sentence: string) => ({
    offset,
    text: `${place(fileName, lines, offset)}: ${pathText(path)} ${sentence}`,
  });
  const document = readYaml(text, fileName, lines);
  const syntax = [...document.errors, ...document.warnings];
  const said = syntax.map((error) => say(error.pos[0], [], yamlSentence(error.code, error.message)));
  if (syntax.some((error) => error.code !== 'DUPLICATE_KEY')) throw invalid(fileName, said);

  const value = toPlain(document, fileName);
  const problems = problemsOf(RekindleFile, value);
  const specs = Object.entries(workloadsIn(value)).flatMap(([name, workload]) =>
    problems.some(({ path }) => path.length < 2 || path[1] === name) ? [] : [completed(name, workload)],
  );
  for (const spec of specs)
    problems.push(...brokenRules(spec).map((problem) => ({ ...problem, path: ['workloads', spec.name, ...problem.path] })));
  problems.push(...brokenTogether(specs));
  said.push(...problems.map((problem) => say(offsetOf(document, problem), problem.path, problem.says)));
  if (said.length > 0) throw invalid(fileName, said);
  return specs.map((spec) => ({ ...spec, container: withAbsolutePaths(spec.container, baseDir) }));
}

/** A workload that {@link problemsOf} finds nothing wrong with, with its defaults. */
function completed(name: string, workload: unknown): WorkloadSpec {
  const full = Value.Default(Workload, structuredClone(workload));
  // Ours and TypeBox's idea of the schema must not part: what enters has passed TypeBox's.
  if (!Value.Check(Workload, full))
    throw new RekindleError(
      'internal',
      `workload ${name} passed our checks but not its schema: ${JSON.stringify(Value.Errors(Workload, full)[0])}`,
    );
  return { name, ...full };
}

function readYaml(text: string, fileName: string, lineCounter: LineCounter): Document.Parsed {
  try {
    // Only what YAML's core schema has: known tags would make dates, sets and buffers of what should be text.
    return parseDocument(text, {
      lineCounter,
      merge: true,
      stringKeys: true,
      resolveKnownTags: false,
      prettyErrors: false,
      logLevel: 'error',
    });
  } catch (error) {
    throw new RekindleError('config_invalid', `${fileName} cannot be read as YAML: ${String(error)}`, { cause: error });
  }
}

function toPlain(document: Document.Parsed, fileName: string): unknown {
  try {
    const value: unknown = document.toJS();
    return value;
  } catch (error) {
    throw new RekindleError('config_invalid', `${fileName} has aliases that cannot be resolved: ${String(error)}`, { cause: error });
  }
}

function workloadsIn(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || !('workloads' in value)) return {};
  return typeof value.workloads === 'object' && value.workloads !== null && !Array.isArray(value.workloads) ? { ...value.workloads } : {};
}

/** Where in the text a problem is: at the key, or at a plain value if that is what is wrong; else as near as there is something. */
function offsetOf(document: Document.Parsed, { path, at }: Problem): number {
  let node: unknown = document.contents;
  let offset = 0;
  for (const [depth, step] of path.entries()) {
    if (isAlias(node)) node = node.resolve(document);
    let key: unknown;
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && item.key.value === step);
      [key, node] = [pair?.key, pair?.value];
    } else if (isSeq(node)) {
      node = node.items[Number(step)];
      key = node;
    } else break;
    const last = depth === path.length - 1;
    const exact = last && at === 'value' && isScalar(node) && node.value !== null ? node : key;
    offset = startOf(isNode(exact) ? exact : undefined) ?? offset;
  }
  return offset;
}

function startOf(node: Node | undefined): number | undefined {
  return node?.range?.[0];
}

function pathText(path: Path): string {
  if (path.length === 0) return 'the file';
  return path.map((step, index) => (typeof step === 'number' ? `[${step}]` : `${index === 0 ? '' : '.'}${step}`)).join('');
}

function yamlSentence(code: string, message: string): string {
  if (code === 'DUPLICATE_KEY') return 'says this key twice: keep one of them';
  if (code === 'NON_STRING_KEY') return 'has a key here that is not text: put it in quotes';
  if (code === 'MULTIPLE_DOCS') return 'holds several documents: keep one, without `---` between workloads';
  return `is not YAML here: ${message.split('\n', 1)[0]}`;
}

function place(fileName: string, lines: LineCounter, offset: number): string {
  const { line, col } = lines.linePos(offset);
  return `${fileName}:${line || 1}:${col || 1}`;
}

function invalid(fileName: string, said: readonly { offset: number; text: string }[]): RekindleError {
  const count = said.length === 1 ? 'a problem' : `${said.length} problems`;
  const inOrder = said.toSorted((a, b) => a.offset - b.offset).map(({ text }) => `  ${text}`);
  return new RekindleError('config_invalid', `${fileName} has ${count}:\n${inOrder.join('\n')}`);
}

function withAbsolutePaths(container: ContainerSpec, baseDir: string): ContainerSpec {
  const volumes = container.volumes
    .map((volume) => ('from' in volume ? { ...volume, from: resolve(baseDir, volume.from) } : volume))
    .sort((a, b) => (a.at < b.at ? -1 : 1));
  const [program, ...rest] = container.command ?? [];
  return {
    ...container,
    volumes,
    ...(container.image === undefined ? {} : { image: absoluteImage(container.image, baseDir) }),
    // On the machine's own root a program beside the file can be named as such.
    ...(container.rootfs === 'host' && program !== undefined && /^\.\.?\//.test(program)
      ? { command: [resolve(baseDir, program), ...rest] }
      : {}),
  };
}

/** skopeo's names: the file or directory ends at the next colon, where tag or name begin. */
function absoluteImage(image: string, baseDir: string): string {
  const parts = /^(oci|oci-archive|docker-archive):([^:]+)(.*)$/s.exec(image);
  const [, transport, file, rest] = parts ?? [];
  return transport === undefined || file === undefined ? image : `${transport}:${resolve(baseDir, file)}${rest}`;
}
