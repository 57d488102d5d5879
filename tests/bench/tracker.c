// SPDX-License-Identifier: Apache-2.0
/* tracker SOCKET untaken|taken: hold a log-dirty tracker on the guest behind a control socket until stdin
 * ends; taken: take all of it every 100 ms. For the benchmark of log-dirty's own cost. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/msg.h"
#include "hv/control/client.h"

#define TAKE_MS 100

/* Until stdin ends (true) or TAKE_MS have passed. */
static bool ended(bool wait)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    char c;
    return poll(&p, 1, wait ? -1 : TAKE_MS) > 0 && read(STDIN_FILENO, &c, 1) <= 0;
}

int main(int argc, char **argv)
{
    struct fy_err e = {0};
    uint32_t tracker;
    uint64_t pages;
    int bitmap;
    if (argc != 3)
        return 2;
    bool taken = !strcmp(argv[2], "taken");
    int sock = fy_msg_connect(argv[1], &e);
    struct fy_ctl *c = sock < 0 ? NULL : fy_ctl_new(sock, 10000, &e);
    if (!c || fy_ctl_tracker_open(c, "benchmark", false, &tracker, &pages, &bitmap, &e) < 0)
        goto fail;
    fy_close(&bitmap);
    puts("open");
    fflush(stdout);
    while (!ended(!taken))
        if (taken && (fy_ctl_tracker_take(c, tracker, 0, pages, true, NULL, NULL, &e) < 0 ||
                      fy_ctl_tracker_done(c, tracker, &e) < 0))
            goto fail;
    fy_ctl_free(c);
    return 0;
fail:
    fprintf(stderr, "tracker: %s\n", e.text);
    fy_ctl_free(c);
    return 1;
}
