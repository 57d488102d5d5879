// SPDX-License-Identifier: Apache-2.0
/* vmctl logs */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "hv/base/io.h"

static void take_log(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)r;
    int *log = arg;
    for (int i = 0; i < nfds && i < 2; i++)
        if (log[i] < 0) {
            log[i] = fds[i];
            fds[i] = -1;
        }
}

/* A line as it is, or as an object. */
static void print_line(const struct cli *c, const char *line)
{
    if (!c->json) {
        fputs(line, stdout);
        return;
    }
    struct cli_json j = cli_json_begin(stdout);
    cli_json_string(&j, "name", c->name);
    cli_json_string(&j, "line", line);
    cli_json_end(&j);
}

/* All lines that are there. A last one that is not finished is kept for later, unless this is the end. */
static void print_log(const struct cli *c, FILE *f, bool end)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    clearerr(f);
    while ((n = getline(&line, &room, f)) > 0) {
        bool whole = line[n - 1] == '\n';
        if (!whole && !end) {
            fseek(f, -n, SEEK_CUR);
            break;
        }
        if (whole && c->json)
            line[n - 1] = 0;
        print_line(c, line);
    }
    free(line);
    fflush(stdout);
}

static bool is_removed(int fd)
{
    struct stat st;
    return fstat(fd, &st) < 0 || st.st_nlink == 0;
}

/* Print what is written from now on, until the log is removed with its guest. */
static int follow(struct cli *c, FILE *f, int log)
{
    char path[64];
    union {
        struct inotify_event ev;
        char bytes[4096];
    } buf;
    snprintf(path, sizeof path, "/proc/self/fd/%d", log);
    int in = inotify_init1(IN_CLOEXEC);
    if (in < 0 || inotify_add_watch(in, path, IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF) < 0) {
        fy_close(&in);
        return cli_fail(c, FY_ERESOURCE, "cannot watch the log: %s", strerror(errno));
    }
    for (;;) {
        print_log(c, f, false);
        if (is_removed(log) || read(in, &buf, sizeof buf) < 0)
            break;
        if (buf.ev.mask & IN_MOVE_SELF)
            break; /* its guest is over, and the log kept aside */
    }
    print_log(c, f, true);
    fy_close(&in);
    return 0;
}

/* What is kept of the console, as the guest wrote it. */
static int print_console(struct cli *c, int *log)
{
    enum { PIECE = 65536 };
    char *buf = malloc(PIECE);
    int code = buf ? 0 : cli_fail(c, FY_ERESOURCE, "no memory");
    for (int i = 0; i < 2 && code == 0; i++) {
        ssize_t n = 0;
        if (log[i] < 0)
            code = cli_fail(c, FY_ECORRUPT, "the daemon gave no log");
        while (code == 0 && (n = read(log[i], buf, PIECE)) > 0)
            fwrite(buf, 1, (size_t)n, stdout);
        if (n < 0)
            code = cli_fail(c, FY_EFAIL, "cannot read the log: %s", strerror(errno));
    }
    free(buf);
    fflush(stdout);
    fy_close(&log[0]);
    fy_close(&log[1]);
    return code;
}

int verb_logs(struct cli *c)
{
    static const struct option longs[] = {{"follow", no_argument, NULL, 'f'},
                                          {"previous", no_argument, NULL, 'p'},
                                          {"console", no_argument, NULL, 'c'},
                                          {NULL, 0, NULL, 0}};
    Ferry__ApiLogs op = FERRY__API_LOGS__INIT;
    bool on = false;
    int code = 0, o, logs[2] = {-1, -1};
    while ((o = cli_option(c, "f", longs, &code)) != -1) {
        if (o == -2)
            return code;
        on |= o == 'f';
        op.previous |= o == 'p';
        op.console |= o == 'c';
    }
    if ((code = cli_operands(c, 1, "NAME [-f] [--previous] [--console]")) != 0)
        return code;
    if (op.console && (on || op.previous || c->json))
        return cli_fail(c, FY_EUSAGE,
                        "--console prints what is kept of the console as it is (`vmctl console` follows it)");
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    op.name = (char *)(uintptr_t)c->name;
    req.op_case = FERRY__API_REQUEST__OP_LOGS;
    req.logs = &op;
    struct cli_request r = {.req = &req, .on_reply = take_log, .arg = logs};
    if ((code = cli_call(c, &r)) != 0)
        return code;
    if (op.console)
        return print_console(c, logs);
    int log = logs[0];
    fy_close(&logs[1]);
    FILE *f = log < 0 ? NULL : fdopen(log, "r");
    if (!f) {
        fy_close(&log);
        return cli_fail(c, FY_ECORRUPT, "the daemon gave no log");
    }
    if (on)
        code = follow(c, f, log);
    else
        print_log(c, f, true);
    fclose(f);
    return code;
}
