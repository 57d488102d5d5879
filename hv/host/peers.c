// SPDX-License-Identifier: Apache-2.0
/* The one TCP port: reads the 32 bytes of the preface, nothing more, and passes the socket on. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/host/jobs.h"
#include "hv/host/peers.h"
#include "proto/wire.h"

#define PREFACES_MAX 16
#define PREFACE_MS 3000
#define UNPROVED_MAX 16

struct conn {
    struct fyd *d;
    int sock;
    uint8_t buf[FY_PREFACE_LEN];
    size_t have;
    struct fy_watch *watch, *timer;
};

static void drop(struct conn *c)
{
    fy_watch_free(c->watch);
    fy_watch_free(c->timer);
    fy_close(&c->sock);
    c->d->prefaces--;
    free(c);
}

int fyd_preface_parse(const uint8_t buf[FY_PREFACE_LEN], struct fyd_preface *p, struct fy_err *e)
{
    if (memcmp(buf, FY_PREFACE_MAGIC, 8) != 0)
        return fy_fail(e, FY_ECORRUPT, "not a Ferry peer");
    p->kind = fy_get16(buf + 8);
    p->channel = fy_get16(buf + 10);
    if (fy_get32(buf + 12))
        return fy_fail(e, FY_ECORRUPT, "reserved bytes of the preface are set");
    memcpy(p->id, buf + 16, FYD_ID_LEN);
    if (p->kind < FY_PREFACE_MIGRATE || p->kind > FY_PREFACE_CONSOLE || p->channel > FY_CHANNELS_MAX ||
        (p->kind != FY_PREFACE_MIGRATE && p->channel))
        return fy_fail(e, FY_ECORRUPT, "preface of unknown kind %u, channel %u", p->kind, p->channel);
    return 0;
}

/* A further socket of a job that is under way. */
static int join_job(struct fyd *d, const struct fyd_preface *p, int sock, struct fy_err *e)
{
    struct fyd_job *j = fyd_job_find(d, p->id);
    if (!j || j->kind != FERRY__JOB_KIND__JOB_RECEIVE || j->worker_ended || !j->chan || !j->proved)
        return fy_fail(e, FY_ENOTFOUND, "channel %u of a job that is not under way here", p->channel);
    if (p->channel > (j->channels ? j->channels : FY_CHANNELS_MAX))
        return fy_fail(e, FY_ECORRUPT, "channel %u, but the job has %u", p->channel, j->channels);
    return fyd_job_channel(j, p->channel, sock, e);
}

static int begin_job(struct fyd *d, const struct fyd_preface *p, int sock, struct fy_err *e)
{
    static const Ferry__JobKind kinds[] = {[FY_PREFACE_MIGRATE] = FERRY__JOB_KIND__JOB_RECEIVE,
                                           [FY_PREFACE_QUERY] = FERRY__JOB_KIND__JOB_ANSWER,
                                           [FY_PREFACE_PAIR] = FERRY__JOB_KIND__JOB_PAIR_ACCEPT,
                                           [FY_PREFACE_CONSOLE] = FERRY__JOB_KIND__JOB_CONSOLE_SERVE};
    Ferry__JobKind kind = kinds[p->kind];
    uint8_t id[FYD_ID_LEN];
    memcpy(id, p->id, sizeof id);
    if (kind == FERRY__JOB_KIND__JOB_PAIR_ACCEPT && !fyd_invite_open(d))
        return fy_fail(e, FY_EAUTH, "pairing, but no invitation is open");
    if (d->unproved >= UNPROVED_MAX)
        return fy_fail(e, FY_ERESOURCE, "too many peers that have not proved themselves");
    if (kind != FERRY__JOB_KIND__JOB_RECEIVE)
        fy_random(id, sizeof id); /* the peer's number is of no meaning here and may clash */
    else if (fyd_job_find(d, id) || fyd_ho_find(d, id))
        return fy_fail(e, FY_EEXISTS, "a job of this number was here before");
    size_t n = 0;
    for (struct fyd_host *h = d->hosts; h; h = h->next)
        n++;
    Ferry__PinnedPeer *pins = calloc(n + 1, sizeof *pins);
    Ferry__PinnedPeer **peers = calloc(n + 1, sizeof(void *));
    struct fyd_job *j = pins && peers ? fyd_job_new(d, kind, id) : NULL;
    Ferry__JobStart start = FERRY__JOB_START__INIT;
    start.peers = peers;
    for (struct fyd_host *h = d->hosts; j && h; h = h->next) {
        if (h->row.self)
            continue;
        Ferry__PinnedPeer *pin = &pins[start.n_peers];
        ferry__pinned_peer__init(pin);
        pin->host = h->row.name;
        pin->certificate_sha256 = (ProtobufCBinaryData){32, h->row.sha256};
        peers[start.n_peers++] = pin;
    }
    if (kind == FERRY__JOB_KIND__JOB_PAIR_ACCEPT) {
        start.pair_secret = (ProtobufCBinaryData){sizeof d->invite.secret, d->invite.secret};
        start.local_address = fyd_host_self(d) ? fyd_host_self(d)->row.address : start.local_address;
    }
    int rc = j ? fyd_job_spawn(j, &start, &sock, 1, e) : fy_fail(e, FY_ERESOURCE, "no memory for a job");
    if (rc < 0 && j)
        fyd_job_remove(j);
    free(pins);
    free(peers);
    return rc;
}

static void pass_on(struct conn *c)
{
    struct fyd_preface p = {0};
    struct fy_err e;
    int rc = fyd_preface_parse(c->buf, &p, &e);
    if (rc == 0) {
        int flags = fcntl(c->sock, F_GETFL);
        fcntl(c->sock, F_SETFL, flags & ~O_NONBLOCK);
        rc = p.kind == FY_PREFACE_MIGRATE && p.channel ? join_job(c->d, &p, c->sock, &e)
                                                       : begin_job(c->d, &p, c->sock, &e);
    }
    if (rc < 0)
        fy_info("peer connection closed: %s", e.text);
    drop(c);
}

static void on_preface(int fd, unsigned ready, void *arg)
{
    (void)ready;
    struct conn *c = arg;
    ssize_t n = read(fd, c->buf + c->have, sizeof c->buf - c->have);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop(c);
        return;
    }
    c->have += (size_t)n;
    if (c->have == sizeof c->buf)
        pass_on(c);
}

static void on_timer(void *arg)
{
    drop(arg);
}

static void on_accept(int fd, unsigned ready, void *arg)
{
    (void)ready;
    struct fyd *d = arg;
    int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (sock < 0)
        return;
    struct conn *c = d->prefaces < PREFACES_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c) {
        close(sock);
        return;
    }
    int one = 1;
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    *c = (struct conn){.d = d, .sock = sock};
    d->prefaces++;
    c->watch = fy_watch_fd(d->loop, sock, FY_READ, on_preface, c, NULL);
    c->timer = fy_timer_new(d->loop, on_timer, c, NULL);
    if (!c->watch || !c->timer) {
        drop(c);
        return;
    }
    fy_timer_arm(c->timer, PREFACE_MS);
}

int fyd_address_split(const char *address, char *host, size_t room, char port[8], struct fy_err *e)
{
    const char *colon = strrchr(address, ':');
    const char *begin = address;
    size_t n = colon ? (size_t)(colon - address) : 0;
    if (n > 1 && begin[0] == '[' && begin[n - 1] == ']') {
        begin++;
        n -= 2;
    }
    char *end = NULL;
    unsigned long number = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!colon || n == 0 || n >= room || end == colon + 1 || *end || number > 65535)
        return fy_fail(e, FY_EUSAGE, "%s is not ADDRESS:PORT", address);
    memcpy(host, begin, n);
    host[n] = 0;
    snprintf(port, 8, "%lu", number);
    return 0;
}

int fyd_peers_listen(struct fyd *d, struct fy_err *e)
{
    char host[FYD_ADDRESS_MAX];
    char port[8];
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *res = NULL;
    if (fyd_address_split(d->listen, host, sizeof host, port, e) < 0)
        return -1;
    int rc = getaddrinfo(host, port, &hints, &res);
    if (rc)
        return fy_fail(e, FY_EUSAGE, "--listen %s: %s", d->listen, gai_strerror(rc));
    int one = 1;
    d->peer_sock = socket(res->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (d->peer_sock >= 0)
        setsockopt(d->peer_sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (d->peer_sock < 0 || bind(d->peer_sock, res->ai_addr, res->ai_addrlen) < 0 ||
        listen(d->peer_sock, 64) < 0)
        rc = fy_fail_errno(e, FY_ERESOURCE, errno, "cannot listen at %s (--listen picks another port)",
                           d->listen);
    freeaddrinfo(res);
    if (rc == 0) {
        /* Port 0 asks for any: what it became is what peers are told. */
        struct sockaddr_storage ss;
        socklen_t len = sizeof ss;
        char p[8];
        if (getsockname(d->peer_sock, (struct sockaddr *)&ss, &len) == 0 &&
            getnameinfo((struct sockaddr *)&ss, len, NULL, 0, p, sizeof p, NI_NUMERICSERV) == 0)
            snprintf(d->listen, sizeof d->listen, strchr(host, ':') ? "[%.200s]:%s" : "%.200s:%s", host, p);
        d->peer_watch = fy_watch_fd(d->loop, d->peer_sock, FY_READ, on_accept, d, e);
        rc = d->peer_watch ? 0 : -1;
    }
    return rc;
}

void fyd_peers_close(struct fyd *d)
{
    fy_watch_free(d->peer_watch);
    d->peer_watch = NULL;
    fy_close(&d->peer_sock);
}
