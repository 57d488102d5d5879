// SPDX-License-Identifier: Apache-2.0
/* vmctl console: the terminal joined to the guest's serial port. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"
#include "hv/base/io.h"

#define DETACH 0x1d /* ^] */
#define SILENT_MAX 3

static struct termios saved;
static bool raw;

static void restore(void)
{
    if (raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
    raw = false;
}

static void on_signal(int signo)
{
    restore();
    signal(signo, SIG_DFL);
    raise(signo);
}

static void make_raw(void)
{
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved) < 0)
        return;
    struct termios t = saved;
    cfmakeraw(&t);
    raw = true;
    signal(SIGTERM, on_signal);
    signal(SIGHUP, on_signal);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &t);
}

/* Keyboard to guest. False when the operator detaches. */
static bool pass_input(int fd, bool *input_open)
{
    char buf[4096];
    ssize_t n = read(STDIN_FILENO, buf, sizeof buf);
    if (n < 0 && errno == EINTR)
        return true;
    if (n <= 0) {
        *input_open = false;
        return true;
    }
    char *end = raw ? memchr(buf, DETACH, (size_t)n) : NULL;
    size_t len = end ? (size_t)(end - buf) : (size_t)n;
    /* A guest that is gone is noticed on the way back. */
    if (len)
        (void)!fy_write_all(fd, buf, len);
    return !end;
}

/* One joining of the terminal to a console. */
struct attach {
    int fd;
    uint64_t position; /* of the first byte that comes, in all that the guest has said */
    uint64_t bytes;    /* that came */
};

/* Returns true when the operator detached, false when the console ended. */
static bool join(struct attach *a, bool *input_open)
{
    char buf[16384];
    for (;;) {
        struct pollfd p[2] = {{.fd = a->fd, .events = POLLIN},
                              {.fd = *input_open ? STDIN_FILENO : -1, .events = POLLIN}};
        if (poll(p, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return false;
        }
        if (p[0].revents) {
            ssize_t n = read(a->fd, buf, sizeof buf);
            if (n < 0 && (errno == EINTR || errno == EAGAIN))
                continue;
            if (n <= 0)
                return false;
            a->bytes += (uint64_t)n;
            if (fy_write_all(STDOUT_FILENO, buf, (size_t)n) < 0)
                return true;
        }
        if (p[1].revents && !pass_input(a->fd, input_open))
            return true;
    }
}

static void take_console(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    struct attach *a = arg;
    if (r->code || nfds != 1)
        return;
    a->fd = fds[0];
    fds[0] = -1;
    if (r->kind_case == FERRY__API_REPLY__KIND_CONSOLE_AT)
        a->position = r->console_at->position;
}

/* A console from behind the first `after` bytes of what the guest has said. */
static int attach(struct cli *c, const char *name, uint64_t after, struct attach *a)
{
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiConsole op = FERRY__API_CONSOLE__INIT;
    op.name = (char *)(uintptr_t)name;
    op.scrollback = true;
    op.after = after;
    req.op_case = FERRY__API_REQUEST__OP_CONSOLE;
    req.console = &op;
    *a = (struct attach){.fd = -1};
    struct cli_request r = {.req = &req, .on_reply = take_console, .arg = a};
    int code = cli_call(c, &r);
    if (!code && a->fd < 0)
        code = cli_fail(c, FY_ECORRUPT, "the daemon gave no console");
    return code;
}

/* What became of the guest whose console ended. */
struct fate {
    bool follow; /* it goes on elsewhere, or here again */
    char where[256];
};

static void learn_fate(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    struct fate *f = arg;
    (void)fds;
    (void)nfds;
    if (r->kind_case != FERRY__API_REPLY__KIND_GUEST)
        return;
    const Ferry__ApiGuest *g = r->guest;
    f->follow = *g->moved_to || !strcmp(g->state, "running") || !strcmp(g->state, "paused");
    if (*g->moved_to)
        snprintf(f->where, sizeof f->where, "%s has moved to %s", g->name, g->moved_to);
    else
        snprintf(f->where, sizeof f->where, "%s is %s%s%s", g->name, g->state, *g->report ? ": " : "",
                 g->report);
}

static int ask_fate(struct cli *c, const char *name, struct fate *f)
{
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiName show = FERRY__API_NAME__INIT;
    show.name = (char *)(uintptr_t)name;
    req.op_case = FERRY__API_REQUEST__OP_SHOW;
    req.show = &show;
    struct cli_request after = {.req = &req, .on_reply = learn_fate, .arg = f};
    return cli_call(c, &after);
}

/* Joined until the operator detaches or the guest is no more: over every move. A console that ends without a
 * word is followed a few times only. */
static int follow(struct cli *c, const char *name, struct attach *a, bool *detached)
{
    bool input_open = true;
    unsigned silent = 0;
    for (;;) {
        *detached = join(a, &input_open);
        close(a->fd);
        if (*detached)
            return 0;
        struct fate f = {0};
        int code = ask_fate(c, name, &f);
        if (code)
            return code;
        silent = a->bytes ? 0 : silent + 1;
        fprintf(stderr, "%s[%s]%s\n", raw ? "\r\n" : "\n", f.where, raw ? "\r" : "");
        if (!f.follow || silent > SILENT_MAX)
            return 0;
        if ((code = attach(c, name, a->position + a->bytes, a)) != 0)
            return code;
    }
}

int cli_console(struct cli *c, const char *name)
{
    struct attach a;
    int code = attach(c, name, 0, &a);
    if (code)
        return code;
    signal(SIGPIPE, SIG_IGN);
    make_raw();
    if (raw)
        fprintf(stderr, "[console of %s: ^] detaches]\r\n", name);
    bool detached = false;
    code = follow(c, name, &a, &detached);
    restore();
    if (detached)
        fputs("\n[detached]\n", stderr);
    return code;
}

int verb_console(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 1, "NAME")) != 0)
        return code;
    return cli_console(c, c->name);
}
