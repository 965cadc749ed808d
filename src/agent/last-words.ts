import { readFile } from 'node:fs/promises';
import type { Container, ContainerMaker } from '../workloads/host.ts';

/** The last lines that a container wrote, as the end of a sentence; empty when it wrote none. */
export async function lastWords(host: Pick<ContainerMaker, 'logFile'>, container: Container): Promise<string> {
  const lines = (await readFile(host.logFile(container), 'utf8').catch(() => '')).trimEnd().split('\n').slice(-10);
  // The format of kubelet's logs: time, stream, whether the line is whole, text.
  const texts = lines.map((line) => line.replace(/^\S+ (stdout|stderr) [FP] ?/, '  '));
  return lines.join('') === '' ? '; it wrote nothing' : `; its last lines:\n${texts.join('\n')}\n `;
}
