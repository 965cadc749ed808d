// Lays out for the images what of node_modules runs in production, without what only people and compilers read: images/stage.ts DIR
import { cp, readFile, rename, rm } from 'node:fs/promises';
import { join, relative } from 'node:path';

const root = join(import.meta.dirname, '..');
const into = process.argv[2];
if (into === undefined) throw new Error('usage: stage.ts DIR');

type Lock = { readonly packages: Readonly<Record<string, { readonly dev?: boolean; readonly optional?: boolean }>> };
const lock = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')) as Lock;
// Node itself comes as a package, and goes into the image as a program.
const left = ([at, { dev }]: [string, { readonly dev?: boolean }]) =>
  at === '' || dev === true || at.startsWith('node_modules/node-linux-');
const packages = new Set(
  Object.entries(lock.packages)
    .filter((one) => !left(one))
    .map(([at]) => at),
);
const unused = /\.(?:map|md|markdown|d\.[cm]?ts|tsbuildinfo)$/;

const made = `${into}.new`;
await rm(made, { recursive: true, force: true });
for (const at of packages) {
  // One that lies in another's node_modules comes with that one; one for another platform is not there.
  if (at.lastIndexOf('node_modules/') > 0) continue;
  await cp(join(root, at), join(made, relative('node_modules', at)), {
    recursive: true,
    verbatimSymlinks: true,
    filter: (file) => !unused.test(file),
  }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' || lock.packages[at]?.optional !== true) throw error;
  });
}
await rm(into, { recursive: true, force: true });
await rename(made, into);
