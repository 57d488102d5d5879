// SPDX-License-Identifier: Apache-2.0
#include "cli/progress.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/out.h"

void cli_progress_text(struct cli_progress *p, const Ferry__JobProgress *j, char *out, size_t room)
{
    char left[16], dirty[16], through[16], end[24], down[24];
    double f = j->fraction;
    if (f > 1)
        f = 1;
    /* The comparison is false for what is no number. */
    if (f > p->fraction)
        p->fraction = f;
    int n = snprintf(out, room, "%3d%% %s", (int)(p->fraction * 100), j->phase);
    if (j->round && n > 0 && (size_t)n < room)
        n += snprintf(out + n, room - (size_t)n, " round %u, %s left, %s/s written, %s/s moved", j->round,
                      cli_size(j->remaining_bytes, left), cli_size(j->dirty_rate, dirty),
                      cli_size(j->throughput, through));
    if (j->expected_end_ns && n > 0 && (size_t)n < room)
        n += snprintf(out + n, room - (size_t)n, ", ends in %s", cli_time(j->expected_end_ns, end));
    if (j->expected_downtime_ns && n > 0 && (size_t)n < room)
        snprintf(out + n, room - (size_t)n, ", silent for %s", cli_time(j->expected_downtime_ns, down));
}

void cli_progress_show(struct cli_progress *p, const Ferry__ApiJobInfo *job)
{
    char text[256];
    struct winsize w = {0};
    if (!isatty(STDERR_FILENO))
        return;
    cli_progress_text(p, job->progress, text, sizeof text);
    int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 1 ? w.ws_col - 1 : 79;
    fprintf(stderr, "\r%.*s\033[K", width, text);
    fflush(stderr);
    p->shown = true;
}

void cli_progress_end(struct cli_progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}
