import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exec, mustExec } from '../../src/lib/exec.ts';
import { median } from './stats.ts';

const SOURCE = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
  size_t size = (size_t)atoi(argv[2]) << 20;
  int fd = open(argv[1], O_RDWR | O_CREAT, 0600);
  if (argc != 4 || fd < 0 || ftruncate(fd, (off_t)size)) return 1;
  char *file = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  for (size_t i = 0; i < size; i += 64) file[i] = (char)i;
  for (int round = 0; round < 5; round++) {
    usleep((useconds_t)atoi(argv[3]) * 1000);
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (size_t at = 0; at < size;) {
      ssize_t n = pread(fd, memory + at, size - at, (off_t)at);
      if (n <= 0) return 1;
      at += (size_t)n;
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%f\\n", (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6);
    munmap(memory, size);
  }
  return 0;
}
`;

/**
 * Milliseconds to copy so many MiB from the page cache into fresh pages, as every eager restore must, with the settings that the machine has now. `restedMs`:
 * for how long the memory was free before. On a virtual machine whose host takes free memory back that is dearer after some seconds.
 */
export async function floorMs(mebibytes: number, restedMs = 0): Promise<number> {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-floor-'));
  try {
    await writeFile(join(dir, 'floor.c'), SOURCE);
    await mustExec(exec, 'gcc', ['-O2', '-o', join(dir, 'floor'), join(dir, 'floor.c')]);
    const args = [join(dir, 'data'), String(mebibytes), String(restedMs)];
    const { stdout } = await mustExec(exec, join(dir, 'floor'), args, { timeoutMs: 60_000 });
    return median(stdout.trim().split('\n').map(Number));
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
