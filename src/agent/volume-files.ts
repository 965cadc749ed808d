import { closeSync, constants, fstatSync, lstatSync, opendirSync, openSync, readlinkSync, readSync, type Stats } from 'node:fs';
import { lstat, open, opendir, readlink } from 'node:fs/promises';

/** Looks at files of somebody else's. Everything rejects with the system's error. */
export type Files = {
  lstat(path: string): Promise<Pick<Stats, 'mode' | 'size' | 'isFile' | 'isDirectory' | 'isSymbolicLink'>>;
  readlink(path: string): Promise<string>;
  /** Of at most `most` entries and one more, in any order. */
  names(path: string, most: number): Promise<string[]>;
  /** At most `most` bytes and one more: as much as there really is. Nothing of what is no regular file (any more). */
  content(path: string, most: number): Promise<Buffer>;
};

/** Whoever may write to the volume elsewhere can put a pipe in a file's place, which must neither be waited for nor followed. */
const CAREFULLY = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
const CHUNK_BYTES = 64 * 1024;

/** On this machine's own disks, at once: a detour over another thread takes longer than a small file. */
export const filesHere: Files = {
  lstat: async (path) => lstatSync(path),
  readlink: async (path) => readlinkSync(path),
  names: async (path, most) => {
    using dir = opendirSync(path);
    const names: string[] = [];
    for (let entry = dir.readSync(); entry !== null && names.length <= most; entry = dir.readSync()) names.push(entry.name);
    return names;
  },
  content: async (path, most) => {
    const fd = openSync(path, CAREFULLY);
    try {
      if (!fstatSync(fd).isFile()) return Buffer.alloc(0);
      const chunks = new Chunks(most);
      while (!chunks.isFull && chunks.add(readSync(fd, chunks.next)));
      return chunks.all();
    } finally {
      closeSync(fd);
    }
  },
};

/** Wherever they are: nobody but the caller waits for them. */
export const filesAnywhere: Files = {
  lstat: (path) => lstat(path),
  readlink: (path) => readlink(path),
  names: async (path, most) => {
    const names: string[] = [];
    for await (const { name } of await opendir(path)) if (names.push(name) > most) break;
    return names;
  },
  content: async (path, most) => {
    await using file = await open(path, CAREFULLY);
    if (!(await file.stat()).isFile()) return Buffer.alloc(0);
    const chunks = new Chunks(most);
    while (!chunks.isFull && chunks.add((await file.read(chunks.next)).bytesRead));
    return chunks.all();
  },
};

/** What is read of a file, piece by piece. */
class Chunks {
  readonly #most: number;
  readonly #read: Buffer[] = [];
  #size = 0;
  #next: Buffer = Buffer.alloc(0);

  constructor(most: number) {
    this.#most = most;
  }

  /** Where the next piece goes. */
  get next(): Buffer {
    this.#next = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, this.#most + 1 - this.#size));
    return this.#next;
  }

  get isFull(): boolean {
    return this.#size > this.#most;
  }

  /** False at the end. */
  add(bytes: number): boolean {
    this.#read.push(this.#next.subarray(0, bytes));
    this.#size += bytes;
    return bytes > 0;
  }

  all(): Buffer {
    return Buffer.concat(this.#read);
  }
}
