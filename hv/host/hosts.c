// SPDX-License-Identifier: Apache-2.0
/* This host's identity and the hosts it trusts. */
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/host/digest.h"
#include "hv/host/jobs.h"
#include "hv/host/peers.h"
#include "hv/host/token.h"

#define INVITE_MS (10 * 60 * 1000)

struct fyd_host *fyd_host_find(struct fyd *d, const char *name)
{
    for (struct fyd_host *h = d->hosts; h; h = h->next)
        if (!strcmp(h->row.name, name))
            return h;
    return NULL;
}

struct fyd_host *fyd_host_self(struct fyd *d)
{
    for (struct fyd_host *h = d->hosts; h; h = h->next)
        if (h->row.self)
            return h;
    return NULL;
}

void fyd_host_load(struct fyd *d, const struct inv_host *row)
{
    struct fyd_host *h = calloc(1, sizeof *h);
    if (!h)
        return;
    h->row = *row;
    h->next = d->hosts;
    d->hosts = h;
}

static void forget(struct fyd *d, struct fyd_host *h)
{
    for (struct fyd_host **p = &d->hosts; *p; p = &(*p)->next)
        if (*p == h) {
            *p = h->next;
            break;
        }
    fyd_changed_host(d, h, true);
    free(h);
}

void fyd_hosts_free_all(struct fyd *d)
{
    while (d->hosts) {
        struct fyd_host *h = d->hosts;
        d->hosts = h->next;
        free(h);
    }
}

int fyd_identity(struct fyd *d, int fds[2], struct fy_err *e)
{
    fds[0] = openat(d->rootfd, "host.key", O_RDONLY | O_CLOEXEC);
    fds[1] = openat(d->rootfd, "host.crt", O_RDONLY | O_CLOEXEC);
    if (fds[0] >= 0 && fds[1] >= 0)
        return 0;
    fy_fail_errno(e, FY_ESTATE, errno, "cannot open host.key and host.crt under %s (run `vmctl host init`)",
                  d->root);
    fy_close(&fds[0]);
    fy_close(&fds[1]);
    return -1;
}

/* Pin a host: the memory follows the disk. */
struct pin {
    struct fyd *d;
    struct inv_host row;
    fyd_inv_cb cb;
    void *arg;
};

static void pinned(void *arg, const struct fy_err *err)
{
    struct pin *p = arg;
    if (!err) {
        struct fyd_host *h = fyd_host_find(p->d, p->row.name);
        if (h)
            h->row = p->row;
        else
            fyd_host_load(p->d, &p->row);
        h = fyd_host_find(p->d, p->row.name);
        if (h)
            fyd_changed_host(p->d, h, false);
    }
    p->cb(p->arg, err);
    free(p);
}

static int pin(struct fyd *d, const struct inv_host *row, fyd_inv_cb cb, void *arg, struct fy_err *e)
{
    struct pin *p = calloc(1, sizeof *p);
    if (!p)
        return fy_fail(e, FY_ERESOURCE, "no memory for a host's record");
    *p = (struct pin){d, *row, cb, arg};
    fyd_inv_put_host(d->inv, row, pinned, p);
    return 0;
}

static bool any_address(const char *host)
{
    return !strcmp(host, "0.0.0.0") || !strcmp(host, "::") || !strcmp(host, "*");
}

/* Where peers reach us: what the operator says, else where we listen, else our first address. */
static int own_address(struct fyd *d, const char *asked, char out[FYD_ADDRESS_MAX], struct fy_err *e)
{
    char host[FYD_ADDRESS_MAX];
    char port[8];
    if (*asked) {
        if (fyd_address_split(asked, host, sizeof host, port, e) < 0)
            return -1;
        fyd_copy(out, FYD_ADDRESS_MAX, asked);
        return 0;
    }
    if (fyd_address_split(d->listen, host, sizeof host, port, e) < 0)
        return -1;
    fyd_copy(out, FYD_ADDRESS_MAX, d->listen);
    if (!any_address(host))
        return 0;
    struct ifaddrs *all = NULL;
    char text[NI_MAXHOST] = "";
    if (getifaddrs(&all) == 0)
        for (struct ifaddrs *i = all; i && !*text; i = i->ifa_next)
            if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && (i->ifa_flags & IFF_UP) &&
                !(i->ifa_flags & IFF_LOOPBACK) &&
                getnameinfo(i->ifa_addr, sizeof(struct sockaddr_in), text, sizeof text, NULL, 0,
                            NI_NUMERICHOST))
                text[0] = 0;
    freeifaddrs(all);
    snprintf(out, FYD_ADDRESS_MAX, "%.200s:%s", *text ? text : "127.0.0.1", port);
    return 0;
}

struct init {
    struct fyd_client *c;
    struct inv_host row;
};

static void init_over(struct init *i, const struct fy_err *err)
{
    if (err)
        fyd_reply_error(i->c, err);
    else
        fyd_reply_host(i->c, fyd_host_self(i->c->d), true);
    fyd_client_release(i->c);
    free(i);
}

static void init_pinned(void *arg, const struct fy_err *err)
{
    init_over(arg, err);
}

static int finish_file(struct fyd *d, const char *tmp, const char *name, struct fy_err *e)
{
    int fd = openat(d->rootfd, tmp, O_RDONLY | O_CLOEXEC);
    int rc = fd >= 0 ? fsync(fd) : -1;
    fy_close(&fd);
    if (rc < 0 || renameat(d->rootfd, tmp, d->rootfd, name) < 0 || fsync(d->rootfd) < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot keep %s/%s", d->root, name);
    return 0;
}

static int own_digest(struct fyd *d, uint8_t out[32], struct fy_err *e)
{
    char *pem = NULL;
    size_t len = 0;
    if (fy_read_file(d->rootfd, "host.crt", 65536, &pem, &len, e) < 0)
        return -1;
    int rc = fyd_certificate_digest(pem, len, out, e);
    free(pem);
    return rc;
}

static void identity_made(void *arg, const struct fy_err *err, bool clean, const char *out, size_t len)
{
    (void)out;
    (void)len;
    struct init *i = arg;
    struct fyd *d = i->c->d;
    struct fy_err e;
    int rc = err ? -1 : 0;
    if (err)
        e = *err;
    else if (!clean)
        rc = fy_fail(&e, FY_EFAIL, "ferry-migrate could not make a key and certificate (see ferryd's log)");
    if (rc == 0)
        rc = finish_file(d, ".host.key.new", "host.key", &e);
    if (rc == 0)
        rc = finish_file(d, ".host.crt.new", "host.crt", &e);
    if (rc == 0)
        rc = own_digest(d, i->row.sha256, &e);
    if (rc == 0)
        rc = pin(d, &i->row, init_pinned, i, &e);
    if (rc < 0) {
        unlinkat(d->rootfd, ".host.key.new", 0);
        unlinkat(d->rootfd, ".host.crt.new", 0);
        init_over(i, &e);
    }
}

/* Initialised before: only the address may be told anew. */
static void init_again(struct fyd_client *c, struct init *i, const struct fyd_host *self)
{
    struct fy_err e;
    if (strcmp(self->row.name, i->row.name) != 0) {
        fy_fail(&e, FY_EEXISTS,
                "this host is %s already and its peers know it so (host.key and host.crt are its "
                "identity)",
                self->row.name);
        init_over(i, &e);
        return;
    }
    memcpy(i->row.sha256, self->row.sha256, 32);
    if (pin(c->d, &i->row, init_pinned, i, &e) < 0)
        init_over(i, &e);
}

void fyd_host_init(struct fyd_client *c, const Ferry__ApiHostInit *op)
{
    struct fy_err e;
    struct fyd_host *self = fyd_host_self(c->d);
    struct init *i = calloc(1, sizeof *i);
    if (!i) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        return;
    }
    i->c = c;
    i->row.self = true;
    fyd_client_hold(c);
    fyd_copy(i->row.name, sizeof i->row.name, op->host);
    if (!*op->host && self)
        fyd_copy(i->row.name, sizeof i->row.name, self->row.name);
    else if (!*op->host && gethostname(i->row.name, sizeof i->row.name - 1) < 0)
        i->row.name[0] = 0;
    int rc = fyd_name_ok(i->row.name) ? 0
                                      : fy_fail(&e, FY_EUSAGE,
                                                "a host's name has 1 to 63 letters, digits, dots, "
                                                "dashes or underscores (--name)");
    if (rc == 0)
        rc = own_address(c->d, op->address, i->row.address, &e);
    if (rc < 0) {
        init_over(i, &e);
        return;
    }
    if (self) {
        init_again(c, i, self);
        return;
    }
    int fds[2];
    fds[0] = openat(c->d->rootfd, ".host.key.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    fds[1] = openat(c->d->rootfd, ".host.crt.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fds[0] < 0 || fds[1] < 0) {
        fy_fail_errno(&e, FY_ERESOURCE, errno, "cannot write host.key and host.crt under %s", c->d->root);
        init_over(i, &e);
    } else {
        const char *argv[] = {"ferry-migrate", "--make-identity", i->row.name, NULL};
        fyd_run_program(c->d, "ferry-migrate", argv, fds, 2, 20000, identity_made, i);
    }
    fy_close(&fds[0]);
    fy_close(&fds[1]);
}

static void invite_expired(void *arg)
{
    struct fyd *d = arg;
    d->invite.open = false;
    memset(d->invite.secret, 0, sizeof d->invite.secret);
}

bool fyd_invite_open(struct fyd *d)
{
    return d->invite.open && fy_now_ns() < d->invite.expires_ns;
}

void fyd_host_invite(struct fyd_client *c, const Ferry__ApiHostInvite *op)
{
    struct fyd *d = c->d;
    struct fyd_token t;
    struct fy_err e;
    char text[FYD_TOKEN_TEXT];
    struct fyd_host *self = fyd_host_self(d);
    if (!self) {
        fyd_reply_fail(c, FY_ESTATE, "this host has no identity yet (run `vmctl host init`)");
        return;
    }
    if (own_address(d, *op->address ? op->address : self->row.address, t.address, &e) < 0) {
        fyd_reply_error(c, &e);
        return;
    }
    if (!d->invite.timer)
        d->invite.timer = fy_timer_new(d->loop, invite_expired, d, NULL);
    if (!d->invite.timer) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for a timer");
        return;
    }
    /* One invitation at a time: a new one ends the last. */
    fy_random(d->invite.secret, sizeof d->invite.secret);
    d->invite.open = true;
    d->invite.expires_ns = fy_now_ns() + INVITE_MS * 1000000ull;
    fy_timer_arm(d->invite.timer, INVITE_MS);
    memcpy(t.digest, self->row.sha256, 32);
    memcpy(t.secret, d->invite.secret, 16);
    fyd_token_format(&t, text);
    fyd_reply_text(c, text, true);
}

void fyd_host_join(struct fyd_client *c, const Ferry__ApiHostJoin *op)
{
    struct fyd *d = c->d;
    struct fyd_token t;
    struct fy_err e;
    uint8_t id[FYD_ID_LEN];
    if (fyd_token_parse(op->token, &t, &e) < 0) {
        fyd_reply_error(c, &e);
        return;
    }
    struct fyd_host *self = fyd_host_self(d);
    if (self && !memcmp(self->row.sha256, t.digest, 32)) {
        fyd_reply_fail(c, FY_EUSAGE, "the token is this host's own (run `host join` on the other host)");
        return;
    }
    fy_random(id, sizeof id);
    struct fyd_job *j = fyd_job_new(d, FERRY__JOB_KIND__JOB_PAIR_JOIN, id);
    if (!j) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for a job");
        return;
    }
    Ferry__JobStart start = FERRY__JOB_START__INIT;
    start.address = t.address;
    start.pair_secret = (ProtobufCBinaryData){sizeof t.secret, t.secret};
    start.pair_digest = (ProtobufCBinaryData){sizeof t.digest, t.digest};
    start.local_address = self ? self->row.address : start.local_address;
    memcpy(j->pair_digest, t.digest, 32);
    fyd_copy(j->peer, sizeof j->peer, t.address);
    if (fyd_job_spawn(j, &start, NULL, 0, &e) < 0) {
        fyd_job_remove(j);
        fyd_reply_error(c, &e);
        return;
    }
    fyd_client_hold(c);
    j->pair_client = c;
}

void fyd_host_join_over(struct fyd_job *j)
{
    struct fyd_client *c = j->pair_client;
    struct fyd_host *h = fyd_host_find(j->d, j->paired_host);
    const Ferry__JobReport *r = j->worker_report;
    j->pair_client = NULL;
    if (!c)
        return;
    if (j->pair_pinned && h)
        fyd_reply_host(c, h, true);
    else if (r && r->code && (r->code != FY_EUNREACHABLE || !strncmp(r->error, "cannot connect", 14)))
        fyd_reply_fail(c, (int)r->code, "%s", r->error);
    else
        fyd_reply_fail(c, FY_EAUTH,
                       "%s did not take the token (it is good once and for ten minutes; `vmctl host "
                       "invite` there prints a new one)",
                       j->peer);
    fyd_client_release(c);
}

struct paired {
    struct fyd *d;
    uint8_t job[FYD_ID_LEN];
};

static void paired_pinned(void *arg, const struct fy_err *err)
{
    struct paired *p = arg;
    struct fyd_job *j = fyd_job_find(p->d, p->job);
    if (j) {
        j->pair_pinned = !err;
        fyd_job_answer(j, err, NULL, NULL, 0);
    }
    free(p);
}

static int check_paired(struct fyd_job *j, const Ferry__Paired *p, struct inv_host *row, struct fy_err *e)
{
    struct fyd *d = j->d;
    bool accept = j->kind == FERRY__JOB_KIND__JOB_PAIR_ACCEPT;
    if (!accept && j->kind != FERRY__JOB_KIND__JOB_PAIR_JOIN)
        return fy_fail(e, FY_EFAIL, "this job pairs no hosts");
    if (accept && !fyd_invite_open(d))
        return fy_fail(e, FY_EAUTH, "the token was used before or is older than ten minutes");
    if (!fyd_name_ok(p->host) || p->certificate.len == 0)
        return fy_fail(e, FY_ECORRUPT, "the peer gives no usable name or certificate");
    if (fyd_sha256(p->certificate.data, p->certificate.len, row->sha256, e) < 0)
        return -1;
    if (!accept && memcmp(row->sha256, j->pair_digest, 32) != 0)
        return fy_fail(e, FY_EAUTH, "the host that answered is not the one that invited");
    fyd_copy(row->name, sizeof row->name, p->host);
    fyd_copy(row->address, sizeof row->address, p->address);
    if (!*row->address && !accept)
        fyd_copy(row->address, sizeof row->address, j->peer);
    struct fyd_host *old = fyd_host_find(d, row->name);
    if (old && (old->row.self || memcmp(old->row.sha256, row->sha256, 32) != 0))
        return fy_fail(e, FY_EEXISTS,
                       "the name %s is %s here (`vmctl host remove %s`, or give one of them another "
                       "name)",
                       row->name, old->row.self ? "this host's own" : "another host's", row->name);
    return 0;
}

void fyd_host_paired(struct fyd_job *j, const Ferry__Paired *p)
{
    struct inv_host row = {0};
    struct fy_err e;
    struct paired *arg = NULL;
    int rc = check_paired(j, p, &row, &e);
    if (rc == 0 && !(arg = calloc(1, sizeof *arg)))
        rc = fy_fail(&e, FY_ERESOURCE, "no memory for a host's record");
    if (rc == 0 && arg) {
        *arg = (struct paired){.d = j->d};
        memcpy(arg->job, j->id, FYD_ID_LEN);
        fyd_copy(j->paired_host, sizeof j->paired_host, row.name);
        /* Spent before the answer: a token works once. */
        if (j->kind == FERRY__JOB_KIND__JOB_PAIR_ACCEPT)
            invite_expired(j->d);
        rc = pin(j->d, &row, paired_pinned, arg, &e);
    }
    if (rc < 0) {
        free(arg);
        fyd_job_answer(j, &e, NULL, NULL, 0);
    }
}

struct removal {
    struct fyd_client *c;
    char name[FYD_NAME_MAX];
};

static void removed(void *arg, const struct fy_err *err)
{
    struct removal *r = arg;
    struct fyd_host *h = fyd_host_find(r->c->d, r->name);
    if (err) {
        fyd_reply_error(r->c, err);
    } else {
        if (h)
            forget(r->c->d, h);
        fyd_reply_done(r->c);
    }
    fyd_client_release(r->c);
    free(r);
}

void fyd_host_remove(struct fyd_client *c, const Ferry__ApiHostRemove *op)
{
    struct fyd_host *h = fyd_host_find(c->d, op->host);
    if (!h) {
        fyd_reply_fail(c, FY_ENOTFOUND, "no such host (`vmctl host list` shows them)");
        return;
    }
    if (h->row.self) {
        fyd_reply_fail(c, FY_EUSAGE, "this is the host itself (only others can be removed)");
        return;
    }
    for (struct fyd_job *j = c->d->jobs; j; j = j->next)
        if (fyd_job_listed(j) && !j->finished && !strcmp(j->peer, op->host)) {
            fyd_reply_fail(c, FY_ESTATE, "job %.8s with it is under way (wait for its end, or cancel it)",
                           j->id_text);
            return;
        }
    struct removal *r = calloc(1, sizeof *r);
    if (!r) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        return;
    }
    r->c = c;
    fyd_copy(r->name, sizeof r->name, op->host);
    fyd_client_hold(c);
    fyd_inv_del_host(c->d->inv, op->host, removed, r);
}

void fyd_host_list(struct fyd_client *c)
{
    for (struct fyd_host *h = c->d->hosts; h; h = h->next)
        fyd_reply_host(c, h, false);
    fyd_reply_done(c);
}
