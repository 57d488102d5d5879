// SPDX-License-Identifier: Apache-2.0
/* Sockets: connecting, timeouts, the preface. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "migrate/chan.h"

/* "host:port" or "[v6]:port" into two strings. */
static int split_address(const char *address, char host[256], char port[16], struct fy_err *e)
{
    const char *colon = strrchr(address, ':');
    const char *h = address;
    size_t n = colon ? (size_t)(colon - address) : 0;
    if (n >= 2 && h[0] == '[' && h[n - 1] == ']') {
        h++;
        n -= 2;
    }
    if (!colon || !n || n > 255 || !colon[1] || strlen(colon + 1) > 15)
        return fy_fail(e, FY_EUSAGE, "\"%s\" is not an address (HOST:PORT)", address);
    memcpy(host, h, n);
    host[n] = 0;
    snprintf(port, 16, "%s", colon + 1);
    return 0;
}

/* Connect one resolved address without blocking past the deadline. Returns the socket or -errno. */
static int connect_one(const struct addrinfo *ai, uint64_t deadline_ns)
{
    int sock = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock < 0)
        return -errno;
    int err = 0;
    if (connect(sock, ai->ai_addr, ai->ai_addrlen) < 0)
        err = errno;
    while (err == EINPROGRESS) {
        uint64_t now = fy_now_ns();
        struct pollfd p = {.fd = sock, .events = POLLOUT};
        int left = now >= deadline_ns ? 0 : (int)((deadline_ns - now) / 1000000 + 1);
        int n = poll(&p, 1, left);
        if (n < 0 && errno == EINTR)
            continue;
        socklen_t len = sizeof err;
        if (n == 0)
            err = ETIMEDOUT;
        else if (n < 0 || getsockopt(sock, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
            err = errno;
    }
    if (err) {
        close(sock);
        return -err;
    }
    fcntl(sock, F_SETFL, fcntl(sock, F_GETFL) & ~O_NONBLOCK);
    return sock;
}

int fy_tcp_connect(const char *address, unsigned timeout_ms, struct fy_err *e)
{
    char host[256];
    char port[16];
    if (split_address(address, host, port, e) < 0)
        return -1;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    struct addrinfo *list;
    int rc = getaddrinfo(host, port, &hints, &list);
    if (rc)
        return fy_fail(e, FY_EUNREACHABLE, "cannot resolve %s: %s", address, gai_strerror(rc));
    uint64_t deadline = fy_now_ns() + timeout_ms * 1000000ull;
    int sock = -EADDRNOTAVAIL;
    for (struct addrinfo *ai = list; ai && sock < 0; ai = ai->ai_next)
        sock = connect_one(ai, deadline);
    freeaddrinfo(list);
    if (sock < 0)
        return fy_fail_errno(e, FY_EUNREACHABLE, -sock, "cannot connect to %s (is ferryd running there?)",
                             address);
    return sock;
}

int fy_preface_send(int sock, enum fy_preface_kind kind, unsigned channel,
                    const uint8_t job_id[FY_JOB_ID_LEN], struct fy_err *e)
{
    uint8_t p[FY_PREFACE_LEN] = {0};
    memcpy(p, FY_PREFACE_MAGIC, 8);
    fy_put16(p + 8, (uint16_t)kind);
    fy_put16(p + 10, (uint16_t)channel);
    memcpy(p + 16, job_id, FY_JOB_ID_LEN);
    if (fy_write_all(sock, p, sizeof p) < 0)
        return fy_fail_errno(e, FY_EUNREACHABLE, errno, "cannot send the preface to the peer");
    return 0;
}
