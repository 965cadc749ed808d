/** `warn`: it works, but less well or unproven. `fail`: it cannot work. */
export type FactLevel = 'ok' | 'warn' | 'fail';

/** Something that was found out about this machine or a workload, in words. */
export type Finding = {
  readonly name: string;
  readonly level: FactLevel;
  readonly says: string;
  /** What to do about it. */
  readonly remedy?: string;
};

/** A finding below its heading. */
export type Fact = { readonly group: string } & Finding;

/** Makes one or several findings; may throw. */
export type Look = () => Finding | readonly Finding[] | Promise<Finding | readonly Finding[]>;

export const ok = (name: string, says: string, remedy?: string): Finding => finding('ok', name, says, remedy);
export const warn = (name: string, says: string, remedy?: string): Finding => finding('warn', name, says, remedy);
export const fail = (name: string, says: string, remedy?: string): Finding => finding('fail', name, says, remedy);

/**
 * Looks at everything at once and gives the facts in the order of the looks. Never throws: what could not be found out is a fact too, named
 * by the key of its look.
 */
export async function examine(group: string, looks: Readonly<Record<string, Look>>): Promise<Fact[]> {
  const found = await Promise.all(
    Object.entries(looks).map(async ([name, look]) => {
      try {
        return [await look()].flat();
      } catch (error) {
        return [warn(name, `could not be found out: ${error instanceof Error ? error.message : String(error)}`)];
      }
    }),
  );
  return found.flat().map((one) => ({ group, ...one }));
}

/** `1.5 GiB`: for people. */
export function bytesText(bytes: number): string {
  const mebibytes = bytes / 1024 / 1024;
  return mebibytes < 1024 ? `${Math.round(mebibytes)} MiB` : `${(mebibytes / 1024).toFixed(1)} GiB`;
}

/** Whether a version such as `6.18.44-x` is at least `major.minor`. What cannot be read is not. */
export function atLeast(version: string, major: number, minor: number): boolean {
  const [, had = 0, hadMinor = 0] = (/^(\d+)\.(\d+)/.exec(version) ?? []).map(Number);
  return had > major || (had === major && hadMinor >= minor && had > 0);
}

function finding(level: FactLevel, name: string, says: string, remedy: string | undefined): Finding {
  return { name, level, says, ...(remedy === undefined ? {} : { remedy }) };
}
