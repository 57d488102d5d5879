// SPDX-License-Identifier: Apache-2.0
/* One line on the terminal that is written over, for a move under way. */
#ifndef FERRY_CLI_PROGRESS_H
#define FERRY_CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/api.pb-c.h"

struct cli_progress {
    bool shown;
    double fraction; /* what was shown: it never falls */
};

/* The line's text, at most `room` - 1 bytes. Pure but for p->fraction. */
void cli_progress_text(struct cli_progress *p, const Ferry__JobProgress *job, char *out, size_t room);

/* Show it on stderr if that is a terminal. */
void cli_progress_show(struct cli_progress *p, const Ferry__ApiJobInfo *job);

/* Wipe the line before other output. */
void cli_progress_end(struct cli_progress *p);

#endif
