// The parts of the slot; see slot.c for what it is.
#pragma once
#include <poll.h>
#include <stdint.h>

// slot.c
int64_t now_ms(void);

// slot-install.c
// Copies this program and the files beside it into a directory, for clusters that have no image volumes. Returns the status to end with.
int install(const char *dir);

// slot-preload.c: before the application starts cold.
void preload(void);

// slot-answer.c: answers HTTP and TCP probes in the place of an application that is not there.
enum answering { SILENT, ANSWERING, ANSWERING_WHERE_FREE };
// The ports, as `4000,8080`; what is no port is told on stderr.
void answer_at(const char *ports);
// Listens at every port, or at none: then nothing of ours holds any, not even for a moment longer. Safe to repeat. A port that cannot be had is tried
// again; WHERE_FREE says nothing about it, and tries more often, because somebody is about to leave it.
void answer(enum answering wanted);
// Fills in what poll is to wait for, and returns how many that are, at most ANSWER_FDS.
enum { PORTS = 16, VISITORS = 64, ANSWER_FDS = PORTS + VISITORS };
int answer_poll(struct pollfd *p);
// Does what poll found, and what is due. Never waits, and does no more than a little at a time.
void answer_turn(const struct pollfd *p, int n);
// When answer_turn is to be called again although nothing happened, INT64_MAX for never.
int64_t answer_due(void);

// slot-probe.c: exec probes.
// Whether `slot probe` in this container is told that nothing has to be probed. Returns the descriptor that poll is to wait for, -1 for none.
int stand_in(const char *pod_uid, const char *container, int wanted);
void stand_in_turn(void);
// slot probe -- COMMAND…: returns 0 where a slot stands in, else becomes the command.
int probe(char **command);
