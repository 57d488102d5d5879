// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_HOST_RUNLOG_H
#define FERRY_HOST_RUNLOG_H

#include <stdbool.h>
#include <stddef.h>

/* True when a line of the run log (hv/host/runlog.c) tells that a guest was entered under hand-over `id` (32
 * hex digits). Pure. */
bool fyd_runlog_has_enter(const char *text, size_t len, const char *id);

struct fyd;
#define FYD_RUNLOG_MAX (1 << 20)
/* Empty the run log when it is larger than FYD_RUNLOG_MAX bytes and no hand-over may still ask for what is in
 * it. The main thread. */
void fyd_runlog_trim(struct fyd *d);

#endif
