// What helper-files.c shares with those who walk the same trees.
#pragma once
#include <stdbool.h>
#include <sys/stat.h>

#define DEPTH 200

typedef void visit(int dir, const char *name, const struct stat *s, const char *path, void *arg);
// Calls f for every entry of the directory, in no order. `path` is the entry's path from where the walk began, for messages and journals.
void each_entry(int fd, const char *path, visit *f, void *arg);
// Copies of one entry, with all that it is besides its content. They die when they cannot.
void copy_file(int from_dir, const char *from_name, int to_dir, const char *to_name, const struct stat *s, const char *path);
void copy_link(int from_dir, const char *from_name, int to_dir, const char *to_name, const struct stat *s, const char *path);
void copy_fifo(int to_dir, const char *to_name, const struct stat *s, const char *path);
// Owner, mode, extended attributes and times. -1 with errno.
int same_attributes(int from, int to, const struct stat *s);
