// SPDX-License-Identifier: Apache-2.0
/* vmctl console: the terminal joined to the guest's serial port. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"
#include "hv/base/io.h"

#define DETACH 0x1d /* ^] */

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

/* Returns true when the operator detached, false when the console ended. */
static bool join(int fd)
{
    bool input_open = true;
    char buf[16384];
    for (;;) {
        struct pollfd p[2] = {{.fd = fd, .events = POLLIN},
                              {.fd = input_open ? STDIN_FILENO : -1, .events = POLLIN}};
        if (poll(p, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return false;
        }
        if (p[0].revents) {
            ssize_t n = read(fd, buf, sizeof buf);
            if (n < 0 && (errno == EINTR || errno == EAGAIN))
                continue;
            if (n <= 0)
                return false;
            if (fy_write_all(STDOUT_FILENO, buf, (size_t)n) < 0)
                return true;
        }
        if (p[1].revents && !pass_input(fd, &input_open))
            return true;
    }
}

static void take_fd(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    if (r->code == 0 && nfds == 1) {
        *(int *)arg = fds[0];
        fds[0] = -1;
    }
}

static void say_why(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)arg;
    (void)fds;
    (void)nfds;
    if (r->kind_case != FERRY__API_REPLY__KIND_GUEST)
        return;
    const Ferry__ApiGuest *g = r->guest;
    if (*g->moved_to)
        fprintf(stderr, "[%s has moved to %s: `vmctl console %s` there goes on with what was said]\n",
                g->name, g->moved_to, g->name);
    else
        fprintf(stderr, "[%s is %s%s%s]\n", g->name, g->state, *g->report ? ": " : "", g->report);
}

int cli_console(struct cli *c, const char *name)
{
    int fd = -1;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiConsole op = FERRY__API_CONSOLE__INIT;
    op.name = (char *)(uintptr_t)name;
    op.scrollback = true;
    req.op_case = FERRY__API_REQUEST__OP_CONSOLE;
    req.console = &op;
    struct cli_request r = {.req = &req, .on_reply = take_fd, .arg = &fd};
    int code = cli_call(c, &r);
    if (code)
        return code;
    if (fd < 0)
        return cli_fail(c, FY_ECORRUPT, "the daemon gave no console");
    signal(SIGPIPE, SIG_IGN);
    make_raw();
    if (raw)
        fprintf(stderr, "[console of %s: ^] detaches]\r\n", name);
    bool detached = join(fd);
    restore();
    close(fd);
    if (detached) {
        fputs("\n[detached]\n", stderr);
        return 0;
    }
    Ferry__ApiName show = FERRY__API_NAME__INIT;
    show.name = (char *)(uintptr_t)name;
    req.op_case = FERRY__API_REQUEST__OP_SHOW;
    req.show = &show;
    struct cli_request after = {.req = &req, .on_reply = say_why};
    fputc('\n', stderr);
    return cli_call(c, &after);
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
