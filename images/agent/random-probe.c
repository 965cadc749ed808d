// random-probe PID…: what would these processes draw next? For throw-away trial clones only: it uses up what it reads.
//
// Two clones that print the same bytes for the same source share their random numbers. For each process (PIDs as the caller sees them)
// and each OpenSSL in it that exports RAND_bytes (a mapped libcrypto*, libnode*, or the program itself), its main thread is made to
// call RAND_bytes(buffer, 64) and is then put back where it was. One JSON line each, on stdout:
//   {"pid":12,"source":"openssl:/usr/lib/libcrypto.so.3","bytes":"128 hex digits"}
//   {"pid":12,"source":"openssl:/usr/lib/libcrypto.so.3","error":"what went wrong"}
//   {"pid":12,"source":"process","error":"…"}          the process could not be looked at at all
// A process without OpenSSL has no line. 2 s per process, then its registers are put back and it is let go; none is ever killed.
// Ends with 0 unless called wrongly (2). The process and its files are untrusted: every offset in them is checked against sizes that
// the kernel tells, memory is bounded, and nothing of it is run here. Needs CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE (map_files).
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  BYTES = 64,
  DEADLINE_MS = 2000,
  // So long a busy main thread is waited for to enter a system call, where it holds no lock of malloc or OpenSSL.
  CALM_MS = 500,
  MAX_SOURCES = 8,
  MAX_MAPS_BYTES = 64 << 20,
  MAX_SECTION = 128 << 20,  // node's .dynstr has 16 MB
  MAX_SECTIONS = 4096,
  // Mapped nowhere: below vm.mmap_min_addr. RAND_bytes() returns there, and the fault tells us.
  NOWHERE = 8,
};

typedef struct {
  unsigned long start, end, offset, inode;
  unsigned device[2];
  char name[4097];
} Mapping;

typedef struct {
  unsigned long address;  // of RAND_bytes, 0 if not found
  unsigned long inode;
  unsigned device[2];
  char name[4097];
  char error[128];
} Source;

static Source sources[MAX_SOURCES];

static long now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void print_string(const char *text) {
  putchar('"');
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\') printf("\\%c", *c);
    else if (*c < 0x20 || *c > 0x7e) printf("\\u%04x", *c);
    else putchar(*c);
  }
  putchar('"');
}

static void print_result(int pid, const char *source, const unsigned char *bytes, const char *error) {
  printf("{\"pid\":%d,\"source\":", pid);
  print_string(source);
  if (error) {
    printf(",\"error\":");
    print_string(error);
  } else {
    printf(",\"bytes\":\"");
    for (int i = 0; i < BYTES; i++) printf("%02x", bytes[i]);
    putchar('"');
  }
  puts("}");
  fflush(stdout);
}

// ---- where RAND_bytes is -------------------------------------------------------------------------------------------------------

static int read_all(int file, void *to, size_t size, uint64_t offset) {
  return offset <= INT64_MAX && pread(file, to, size, (off_t)offset) == (ssize_t)size;
}

// Something of the file in memory of ours, one zero byte behind it; NULL when it lies outside the file or is too large.
static void *slice(int file, uint64_t file_size, uint64_t offset, uint64_t size) {
  if (size == 0 || size > MAX_SECTION || offset > file_size || size > file_size - offset) return NULL;
  char *memory = malloc(size + 1);
  if (!memory) return NULL;
  memory[size] = 0;
  if (read_all(file, memory, size, offset)) return memory;
  free(memory);
  return NULL;
}

// The file offset of the exported function `wanted`, 0 when there is none: from the section .dynsym, through the loaded segments.
static uint64_t function_offset(int file, uint64_t file_size, const char *wanted) {
  Elf64_Ehdr head;
  if (!read_all(file, &head, sizeof head, 0) || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0) return 0;
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_shentsize != sizeof(Elf64_Shdr) || head.e_phentsize != sizeof(Elf64_Phdr)) return 0;
  if (head.e_shnum > MAX_SECTIONS || head.e_phnum > MAX_SECTIONS) return 0;
  Elf64_Shdr *sections = slice(file, file_size, head.e_shoff, (uint64_t)head.e_shnum * sizeof *sections);
  Elf64_Phdr *segments = slice(file, file_size, head.e_phoff, (uint64_t)head.e_phnum * sizeof *segments);
  uint64_t value = 0, found = 0;

  for (int s = 0; sections && segments && s < head.e_shnum && !value; s++) {
    if (sections[s].sh_type != SHT_DYNSYM || sections[s].sh_link >= head.e_shnum) continue;
    const Elf64_Shdr *texts = &sections[sections[s].sh_link];
    Elf64_Sym *symbols = slice(file, file_size, sections[s].sh_offset, sections[s].sh_size);
    char *names = slice(file, file_size, texts->sh_offset, texts->sh_size);
    for (uint64_t i = 0; symbols && names && i < sections[s].sh_size / sizeof *symbols; i++) {
      if (symbols[i].st_shndx == SHN_UNDEF || ELF64_ST_TYPE(symbols[i].st_info) != STT_FUNC) continue;
      if (symbols[i].st_name < texts->sh_size && strcmp(names + symbols[i].st_name, wanted) == 0) value = symbols[i].st_value;
    }
    free(symbols);
    free(names);
  }
  for (int p = 0; value && p < head.e_phnum && !found; p++) {
    const Elf64_Phdr *load = &segments[p];
    if (load->p_type != PT_LOAD || value < load->p_vaddr || value - load->p_vaddr >= load->p_filesz) continue;
    found = load->p_offset + (value - load->p_vaddr);
  }
  free(sections);
  free(segments);
  return found;
}

// One line of maps; only executable mappings of files are of interest.
static int parse_mapping(const char *line, Mapping *m) {
  char rights[5] = "";
  int name = 0;
  if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %n", &m->start, &m->end, rights, &m->offset, &m->device[0], &m->device[1], &m->inode, &name) < 7) return 0;
  size_t length = name ? strcspn(line + name, "\n") : 0;
  if (rights[2] != 'x' || m->inode == 0 || length == 0 || length >= sizeof m->name || m->end <= m->start) return 0;
  memcpy(m->name, line + name, length);
  m->name[length] = 0;
  return 1;
}

static int same_file(const Source *s, const Mapping *m) {
  return s->inode == m->inode && s->device[0] == m->device[0] && s->device[1] == m->device[1];
}

static int is_library(const char *name) {
  const char *base = strrchr(name, '/');
  return base && (strncmp(base, "/libcrypto.", 11) == 0 || strncmp(base, "/libcrypto-", 11) == 0 || strncmp(base, "/libnode", 8) == 0);
}

// Looks into the file of one mapping, as the kernel knows it (map_files), not by its name. Nothing found in the program: no source.
static void look_into(int pid, const Mapping *m, int is_program, int *count) {
  int known = 0;
  while (known < *count && !same_file(&sources[known], m)) known++;
  if (known == MAX_SOURCES || (known < *count && sources[known].address)) return;
  Source *source = &sources[known];
  if (known == *count) *source = (Source){.inode = m->inode, .device = {m->device[0], m->device[1]}};
  strcpy(source->name, m->name);

  char path[96];
  snprintf(path, sizeof path, "/proc/%d/map_files/%lx-%lx", pid, m->start, m->end);
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat is;
  if (file < 0) {
    snprintf(source->error, sizeof source->error, "cannot open it through map_files: %s", strerror(errno));
  } else if (fstat(file, &is) || !S_ISREG(is.st_mode)) {
    snprintf(source->error, sizeof source->error, "not a regular file");
  } else {
    uint64_t at = function_offset(file, (uint64_t)is.st_size, "RAND_bytes");
    if (at >= m->offset && at && at - m->offset < m->end - m->start) source->address = m->start + (at - m->offset);
    snprintf(source->error, sizeof source->error, "exports no RAND_bytes");
  }
  if (file >= 0) close(file);
  if (known == *count && (source->address || !is_program)) ++*count;
}

static int find_sources(int pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/exe", pid);
  struct stat program = {0};
  if (stat(path, &program)) program.st_ino = 0;
  snprintf(path, sizeof path, "/proc/%d/maps", pid);
  FILE *maps = fopen(path, "re");
  if (!maps) return -errno;
  static char line[4096 * 4 + 128];
  static Mapping mapping;
  int count = 0;
  for (size_t bytes = 0; bytes < MAX_MAPS_BYTES && fgets(line, sizeof line, maps); bytes += strlen(line)) {
    if (!parse_mapping(line, &mapping)) continue;
    int is_program = mapping.inode == program.st_ino;
    if (is_program || is_library(mapping.name)) look_into(pid, &mapping, is_program, &count);
  }
  fclose(maps);
  return count;
}

// ---- the call ------------------------------------------------------------------------------------------------------------------

#if defined(__x86_64__)

static void pause_ms(void) { nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL); }

typedef struct {
  struct user_regs_struct general;
  unsigned char vector[16384];  // AVX-512 and AMX
  size_t vector_size;
} Registers;

static int get_registers(int pid, Registers *r) {
  struct iovec general = {&r->general, sizeof r->general}, vector = {r->vector, sizeof r->vector};
  if (ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &general) || ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &vector)) return -1;
  r->vector_size = vector.iov_len;
  return 0;
}

static int set_general(int pid, const struct user_regs_struct *r) {
  struct iovec general = {(void *)r, sizeof *r};
  return (int)ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &general);
}

static int set_registers(int pid, const Registers *r) {
  struct iovec vector = {(void *)r->vector, r->vector_size};
  int failed = (int)ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &vector);
  return set_general(pid, &r->general) || failed ? -1 : 0;
}

// A sleep, poll or futex wait with a timeout that our stop interrupted would go on by what the kernel keeps of it for the task, and a call of ours that sleeps
// replaces that: the system call would fail with EINTR, which it never would by itself. So it is made again from its begin.
static void begin_again(struct user_regs_struct *r) {
  const long restart_block = -516;  // ERESTART_RESTARTBLOCK, include/linux/errno.h
  if ((long)r->rax != restart_block || (long)r->orig_rax < 0) return;
  r->rax = r->orig_rax;
  r->orig_rax = (unsigned long)-1;
  r->rip -= 2;  // syscall, and int 0x80
}

// 1: stopped (how, in `status`), 0: deadline, -1: the process has ended.
static int wait_stop(int pid, int *status, long deadline) {
  for (;;) {
    int got = waitpid(pid, status, WNOHANG | __WALL);
    if (got == pid) return WIFSTOPPED(*status) ? 1 : -1;
    if (got < 0) return -1;
    if (now_ms() >= deadline) return 0;
    pause_ms();
  }
}

// Waits until the main thread is inside a system call, so that a call of ours finds no lock taken; goes on after a while regardless.
static void wait_calm(int pid, long deadline) {
  char path[64], text[16] = "";
  snprintf(path, sizeof path, "/proc/%d/syscall", pid);
  do {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    if (size > 0 && text[0] >= '0' && text[0] <= '9') return;
    pause_ms();
  } while (now_ms() < deadline);
}

// Calls the function in the stopped process. NULL if `bytes` were drawn, else what went wrong. The registers are the caller's to restore.
static const char *call(int pid, int memory, unsigned long function, const Registers *saved, long deadline, int *kept, unsigned char *bytes) {
  struct user_regs_struct r = saved->general;
  // Below the red zone (128 bytes); the stack is a multiple of 16 before the return address is pushed.
  unsigned long buffer = (r.rsp - 128 - BYTES) & ~63UL;
  const uint64_t back = NOWHERE;
  r.rsp = buffer - sizeof back;
  r.rip = function;
  r.rdi = buffer;
  r.rsi = BYTES;
  r.rax = 0;
  r.orig_rax = (unsigned long)-1;  // not in a system call any more: the kernel must not restart it with these registers
  r.eflags &= ~0x400UL;            // direction flag, as the ABI wants it
  if (pwrite(memory, &back, sizeof back, (off_t)r.rsp) != sizeof back) return "its stack cannot be written";
  if (set_general(pid, &r)) return "its registers cannot be set";
  for (;;) {
    int status;
    if (ptrace(PTRACE_CONT, pid, 0, 0)) return "it cannot be continued";
    int stopped = wait_stop(pid, &status, deadline);
    if (stopped < 0) return "it ended during the call";
    if (stopped == 0) {
      // A lock that another thread holds for long: stop it wherever it is, to be put back.
      if (ptrace(PTRACE_INTERRUPT, pid, 0, 0)) return "it ended during the call";
      wait_stop(pid, &status, now_ms() + 500);
      return "RAND_bytes did not return in time";
    }
    if (WSTOPSIG(status) == SIGSEGV && status >> 16 == 0) break;
    // Another signal meanwhile: it gets it when we let go.
    if (status >> 16 == 0) *kept = WSTOPSIG(status);
  }
  struct iovec after = {&r, sizeof r};
  if (ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &after)) return "its registers cannot be read";
  if (r.rip != NOWHERE) return "RAND_bytes crashed";
  if ((int)r.rax != 1) return "RAND_bytes failed";
  return pread(memory, bytes, BYTES, (off_t)buffer) == BYTES ? NULL : "its answer cannot be read";
}

// Draws from each source that has an address.
static void draw(int pid, int count, long deadline) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/mem", pid);
  int memory = open(path, O_RDWR | O_CLOEXEC), status = 0, kept = 0;
  static Registers saved;
  const char *error = NULL;
  wait_calm(pid, now_ms() + CALM_MS);
  int attached = memory >= 0 && ptrace(PTRACE_SEIZE, pid, 0, 0) == 0;
  if (!attached) error = strerror(errno);
  // A stop for a signal may come first; that signal is kept as well.
  while (!error) {
    if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) || wait_stop(pid, &status, deadline) != 1) error = "its main thread does not stop";
    else if (status >> 16 == PTRACE_EVENT_STOP) break;
    else if ((kept = WSTOPSIG(status)) && ptrace(PTRACE_CONT, pid, 0, 0)) error = "it cannot be continued";
  }
  if (!error && get_registers(pid, &saved)) error = "its registers cannot be read";
  begin_again(&saved.general);
  int stopped = attached && !error;
  for (int i = 0; i < count; i++) {
    char name[sizeof sources->name + 16];
    unsigned char bytes[BYTES];
    snprintf(name, sizeof name, "openssl:%s", sources[i].name);
    const char *problem = !sources[i].address ? sources[i].error : error;
    if (!problem) {
      problem = call(pid, memory, sources[i].address, &saved, deadline, &kept, bytes);
      if (set_registers(pid, &saved) && !error) error = "its registers could not be put back";
    }
    print_result(pid, name, bytes, problem);
  }
  if (attached) {
    // What is not stopped cannot be detached; it is let go when this program ends. A kept signal is sent again afterwards: only a stop
    // for a signal could have carried it.
    int here = stopped || waitpid(pid, &status, WNOHANG | __WALL) == pid;
    if (here && ptrace(PTRACE_DETACH, pid, 0, 0) == 0 && kept) kill(pid, kept);
  }
  if (memory >= 0) close(memory);
}

#else

static void draw(int pid, int count, long deadline) {
  (void)deadline;
  for (int i = 0; i < count; i++) {
    char name[sizeof sources->name + 16];
    snprintf(name, sizeof name, "openssl:%s", sources[i].name);
    print_result(pid, name, NULL, "not on this architecture");
  }
}

#endif

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    char *end;
    errno = 0;
    long pid = strtol(argv[i], &end, 10);
    if (*end || errno || pid <= 0 || pid > INT32_MAX) return fprintf(stderr, "random-probe: not a PID: %s\n", argv[i]), 2;
  }
  if (argc < 2) return fputs("usage: random-probe PID...\n", stderr), 2;
  for (int i = 1; i < argc; i++) {
    int pid = atoi(argv[i]);
    int count = find_sources(pid);
    if (count < 0) print_result(pid, "process", NULL, strerror(-count));
    else if (count > 0) draw(pid, count, now_ms() + DEADLINE_MS);
  }
  return 0;
}
