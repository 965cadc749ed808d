// What the application gets preloaded, so that its clones draw random numbers of their own: REKINDLE_PRELOAD=1. It is done here and not by whoever makes
// the container, because only here all of the environment is known: the image's, and that of ConfigMaps and Secrets.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "slot.h"

// Puts it before what is there already. An application that cannot have it starts all the same.
static void prepend(const char *name, const char *value) {
  const char *old = getenv(name);
  char *all;
  if (!old || !*old) {
    setenv(name, value, 1);
  } else if (asprintf(&all, "%s %s", value, old) >= 0) {
    setenv(name, all, 1);
    free(all);
  }
}

void preload(void) {
  const char *wanted = getenv("REKINDLE_PRELOAD");
  if (!wanted || strcmp(wanted, "1")) return;
  prepend("LD_PRELOAD", "/rekindle/entropy.so");
  prepend("NODE_OPTIONS", "--require=/rekindle/random-uuid.cjs");
}
