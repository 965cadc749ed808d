// The parts of the helper; see helper.c for what it is.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_PLACES 256

// Prints "helper: …" on stderr (with strerror(errno) where the format ends in a colon) and ends with status 125.
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

// openat2(2) beneath `dir`, never through a symlink or a magic link. `in_root`: an absolute `path` starts at `dir`, mounts may be crossed;
// otherwise nothing outside `dir` and its mount is reached. Returns a descriptor or -1 with errno.
int open_inside(int dir, const char *path, int flags, bool in_root);

// Where files of a snapshot belong: the root filesystem (at "/") or a private volume.
struct place { const char *at; const char *dir; };

// helper-files.c
// Copies what the container changed out of `source` (an overlay's upper directory, or a volume) to `target`, which is made. Entries that are
// mount points of process `pid`, sockets and devices stay behind; whiteouts become OCI's `.wh.` names. Dies when it cannot.
void files_out(int pid, const char *at, int source, const char *target);
// Puts the trees of `places` (below `files`) into the container whose root is `root`, keeping what it replaces, and writing down each step
// in the journal before it is done. Dies when it cannot; then undo.
void files_in(int root, const char *files, const struct place *places, int n, const char *journal);
// Notes in the journal that the application runs as process `pid` of the slot (kind "C"), or that it does not after all ("U", pid 0).
// Returns 0 or -1 with errno.
int files_note(const char *journal, const char *kind, int pid);
// The `pid` noted last, 0 if none is.
int files_decided(const char *journal);
// Ends a journal: keeps the new files and removes the originals, or puts everything back. Safe to repeat. Returns 0, or -1 when something
// could not be done (told on stderr); the journal then stays.
int files_commit(int root, const char *journal);
int files_undo(int root, const char *journal);

// helper-reset.c
// Makes the files of process `pid`, whose root is `root`, as they were when its container started: what it changed of the overlay's lower layers, which
// are named as process `node` sees them (0: as we do), is put back, what it added goes, and the volumes (mounts) become empty and belong to `group`
// (-1: to none). Says on stdout what was done. Dies when it cannot; safe to repeat.
void files_reset(int pid, int root, int node, int group, const struct place *volumes, int n);

// helper-check.c
// Compares every task of the restored tree at `init` with the slot (process 1 of the mounted /proc). Returns NULL, or in words which right is
// more than the slot's.
const char *rights_exceeded(int init);
// Calls f for every process restored: those in the PID namespace of `init` and below.
void each_restored(int init, void (*f)(int pid, void *arg), void *arg);

// helper-criu.c
// What a restore waits for: criu (a process that runs, and has its request), the slot, whose files criu is about to open, and whether what was restored
// (process 1 of it is `init`) may run: where not, it is killed. False ends criu.
struct restore_steps { void (*started)(pid_t criu); bool (*ready)(void); bool (*fit)(int init); };
// Runs `command` (criu swrk AS) and sends it the request in the file `request`. Returns the PID of the restored process 1 once criu has ended well, else 0.
int criu_restore(char **command, const char *request, int as, int said, const char *preload, struct restore_steps steps);
