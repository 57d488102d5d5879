// SPDX-License-Identifier: Apache-2.0
/* The connection to ferryd. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "hv/base/io.h"
#include "hv/base/msg.h"

#define DEFAULT_SOCKET "/var/lib/ferry/ferryd.sock"

int cli_fail(const struct cli *c, int code, const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    fputs("vmctl: ", stderr);
    if (c->verb)
        fprintf(stderr, "%s%s%s: ", c->verb, c->name ? " " : "", c->name ? c->name : "");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    putc('\n', stderr);
    return code;
}

int cli_connect(struct cli *c, int *code)
{
    const char *where = c->socket ? c->socket : getenv("FERRY_SOCKET");
    char path[4096];
    struct stat st;
    struct fy_err e;
    if (!where || !*where)
        where = DEFAULT_SOCKET;
    bool folder = stat(where, &st) == 0 && S_ISDIR(st.st_mode);
    if (snprintf(path, sizeof path, "%s%s", where, folder ? "/ferryd.sock" : "") >= (int)sizeof path) {
        *code = cli_fail(c, FY_EUSAGE, "the socket's path is too long");
        return -1;
    }
    int sock = fy_msg_connect(path, &e);
    if (sock < 0)
        *code = cli_fail(c, FY_EUNREACHABLE,
                         "%s (is ferryd running? -H SOCKET or $FERRY_SOCKET picks another one)", e.text);
    return sock;
}

static volatile sig_atomic_t interrupted;

static void on_sigint(int signo)
{
    (void)signo;
    interrupted = 1;
}

/* Wait until the daemon has something to say; an interrupt meanwhile is told to the verb. */
static void await(int sock, const struct cli_request *r)
{
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigprocmask(SIG_BLOCK, &block, &old);
    for (;;) {
        if (interrupted && r->on_interrupt) {
            interrupted = 0;
            r->on_interrupt(r->arg);
        }
        struct pollfd p = {.fd = sock, .events = POLLIN};
        if (ppoll(&p, 1, NULL, &old) >= 0 || errno != EINTR)
            break;
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
}

int cli_receive(struct cli *c, int sock, const struct cli_request *r)
{
    static uint8_t buf[FY_MSG_MAX];
    for (;;) {
        int fds[FY_MSG_FDS];
        int nfds = FY_MSG_FDS;
        struct fy_err e;
        await(sock, r);
        long n = fy_msg_recv(sock, buf, fds, &nfds, &e);
        if (n <= 0)
            return cli_fail(c, FY_EUNREACHABLE, "%s (did ferryd end? guests run on; see its log)",
                            n < 0 ? e.text : "the daemon closed the connection before the end");
        Ferry__ApiReply *reply = ferry__api_reply__unpack(NULL, (size_t)n, buf);
        int code = reply ? (int)reply->code : FY_ECORRUPT;
        bool last = !reply || reply->last || code;
        if (reply && reply->kind_case != FERRY__API_REPLY__KIND__NOT_SET && r->on_reply)
            r->on_reply(r->arg, reply, fds, nfds);
        else if (reply && nfds && r->on_reply)
            r->on_reply(r->arg, reply, fds, nfds);
        if (!reply)
            cli_fail(c, code,
                     "the daemon's answer cannot be read (do vmctl and ferryd have the same version?)");
        else if (code && !r->quiet)
            cli_fail(c, code, "%s", *reply->text ? reply->text : fy_code_name(code));
        for (int i = 0; i < nfds; i++)
            fy_close(&fds[i]);
        if (reply)
            ferry__api_reply__free_unpacked(reply, NULL);
        if (last)
            return code;
    }
}

int cli_send(struct cli *c, const struct cli_request *r, int *sock)
{
    int code = 0;
    struct fy_err e;
    *sock = cli_connect(c, &code);
    if (*sock < 0)
        return code;
    r->req->api_version = CLI_API_VERSION;
    size_t len = ferry__api_request__get_packed_size(r->req);
    uint8_t *buf = len <= FY_MSG_MAX ? malloc(len + 1) : NULL;
    if (!buf) {
        code = cli_fail(c, FY_EUSAGE, "the request is too long");
    } else {
        ferry__api_request__pack(r->req, buf);
        if (fy_msg_send(*sock, buf, len, r->fds, r->nfds, &e) < 0)
            code = cli_fail(c, e.code, "%s", e.text);
    }
    free(buf);
    if (code)
        fy_close(sock);
    return code;
}

int cli_call(struct cli *c, const struct cli_request *r)
{
    int sock;
    struct sigaction sa = {.sa_handler = on_sigint};
    struct sigaction old;
    if (r->on_interrupt)
        sigaction(SIGINT, &sa, &old);
    int code = cli_send(c, r, &sock);
    if (code == 0)
        code = cli_receive(c, sock, r);
    if (r->on_interrupt)
        sigaction(SIGINT, &old, NULL);
    fy_close(&sock);
    return code;
}
