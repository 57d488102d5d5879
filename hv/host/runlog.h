// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_HOST_RUNLOG_H
#define FERRY_HOST_RUNLOG_H

#include <stdbool.h>
#include <stddef.h>

/* True when a line of the run log (hv/host/runlog.c) tells that a guest was entered under hand-over `id` (32
 * hex digits). Pure. */
bool fyd_runlog_has_enter(const char *text, size_t len, const char *id);

#endif
