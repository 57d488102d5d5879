// SPDX-License-Identifier: Apache-2.0
/* The verb `migrate`, and the checks that an incoming guest must pass. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/msg.h"
#include "hv/host/guests.h"
#include "hv/host/jobs.h"

#define KNOWN_SWITCHES 9
#define KNOWN_ENOUGH 3 /* one or two may have met a busy moment */

#define MEMORY_MARGIN (64ull << 20)

uint64_t fyd_memory_available(bool hugepages)
{
    char *buf = NULL;
    /* A file of /proc has no size: fy_read_file cannot read it. */
    FILE *f = fopen("/proc/meminfo", "re");
    size_t room = 0;
    unsigned long long kib = 0, pages = 0;
    while (f && getline(&buf, &room, f) > 0) {
        if (!strncmp(buf, "MemAvailable:", 13))
            kib = strtoull(buf + 13, NULL, 10);
        else if (!strncmp(buf, "HugePages_Free:", 15))
            pages = strtoull(buf + 15, NULL, 10);
    }
    free(buf);
    if (f)
        fclose(f);
    if (hugepages)
        return pages << 21;
    return kib << 10 > MEMORY_MARGIN ? (kib << 10) - MEMORY_MARGIN : 0;
}

uint64_t fyd_disk_available(struct fyd *d)
{
    struct statvfs st;
    if (fstatvfs(d->rootfd, &st) < 0)
        return UINT64_MAX;
    return (uint64_t)st.f_bavail * st.f_frsize;
}

struct check {
    void (*cb)(void *arg, const char *reasons);
    void *arg;
    int ready;
};

static void check_over(void *arg, const struct fy_err *err, bool clean, const char *out, size_t len)
{
    (void)len;
    struct check *c = arg;
    static uint8_t buf[FY_MSG_MAX];
    char reasons[FY_ERR_TEXT] = "";
    long n = fy_msg_recv(c->ready, buf, NULL, NULL, NULL);
    Ferry__HvReady *r = n > 0 ? ferry__hv_ready__unpack(NULL, (size_t)n, buf) : NULL;
    if (err)
        fyd_copy(reasons, sizeof reasons, err->text);
    else if (r && r->code)
        fyd_copy(reasons, sizeof reasons,
                 *r->text ? r->text : "the hypervisor refuses it and does not say why");
    else if (!r && !clean)
        fyd_copy(reasons, sizeof reasons, *out ? out : "the hypervisor ended while it looked at the machine");
    if (r)
        ferry__hv_ready__free_unpacked(r, NULL);
    for (size_t i = strlen(reasons); i && reasons[i - 1] == '\n'; i--)
        reasons[i - 1] = 0;
    c->cb(c->arg, reasons);
    fy_close(&c->ready);
    free(c);
}

void fyd_check_machine(struct fyd *d, const Ferry__Machine *m, void (*cb)(void *arg, const char *reasons),
                       void *arg)
{
    static const char *const argv[] = {"ferry-hv", "--check",    "--config-fd", "3", "--kvm-fd",
                                       "4",        "--ready-fd", "5",           NULL};
    struct fy_err e = {0};
    int fds[3] = {-1, -1, -1};
    int pair[2] = {-1, -1};
    struct check *c = calloc(1, sizeof *c);
    fds[0] = fyd_machine_memfd(m, &e);
    fds[1] = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fds[1] < 0)
        fy_fail_errno(&e, FY_EUNSUPPORTED, errno, "cannot open /dev/kvm");
    if (!c || e.code || fy_msg_pair(pair, &e) < 0) {
        cb(arg, *e.text ? e.text : "no memory to look at the machine");
        free(c);
    } else {
        fds[2] = pair[1];
        fcntl(pair[0], F_SETFL, O_NONBLOCK);
        *c = (struct check){.cb = cb, .arg = arg, .ready = pair[0]};
        fyd_run_program(d, "ferry-hv", argv, fds, 3, 10000, check_over, c);
    }
    for (int i = 0; i < 3; i++)
        fy_close(&fds[i]);
}

static struct fyd_host *check_migrate(struct fyd *d, const Ferry__ApiMigrate *m, struct fyd_guest **out,
                                      struct fy_err *e)
{
    struct fyd_guest *g = fyd_guest_by_name(d, m->name);
    struct fyd_host *host = fyd_host_find(d, m->host);
    struct fyd_host *self = fyd_host_self(d);
    if (!g)
        fy_fail(e, FY_ENOTFOUND, "no such guest (`vmctl status` shows them)");
    else if (g->state == FYD_G_MOVED)
        fy_fail(e, FY_ESTATE, "it has moved to %s (ask there)", g->moved_to);
    else if (g->job)
        fy_fail(e, FY_ESTATE, "it is being moved already (`vmctl job show %.8s`)", g->job->id_text);
    else if (g->state != FYD_G_RUNNING && g->state != FYD_G_PAUSED)
        fy_fail(e, FY_ESTATE, "it is %s (only a running or paused guest can move)",
                fyd_gstate_name(g->state));
    else if (!self)
        fy_fail(e, FY_ESTATE, "this host has no identity yet (run `vmctl host init`, then pair it)");
    else if (!host)
        fy_fail(e, FY_ENOTFOUND, "no host %s is paired with this one (`vmctl host list` shows them)",
                m->host);
    else if (host->row.self)
        fy_fail(e, FY_EUSAGE, "%s is this host (name another one)", m->host);
    else {
        *out = g;
        return host;
    }
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* What a switch to this peer costs beside its pages: the median of the last few; 0 where too few are known.
 */
static uint64_t known_switch(const struct fyd *d, const char *peer)
{
    uint64_t seen[KNOWN_SWITCHES];
    unsigned n = 0;
    for (const struct fyd_job *j = d->jobs; j && n < KNOWN_SWITCHES; j = j->next)
        if (j->kind == FERRY__JOB_KIND__JOB_SEND && j->finished && j->report && j->report->switch_ns &&
            !strcmp(j->state, "completed") && !strcmp(j->peer, peer))
            seen[n++] = j->report->switch_ns;
    qsort(seen, n, sizeof *seen, by_value);
    return n >= KNOWN_ENOUGH ? (seen[(n - 1) / 2] + seen[n / 2]) / 2 : 0;
}

struct fyd_job *fyd_migrate(struct fyd *d, const Ferry__ApiMigrate *m, struct fy_err *e)
{
    struct fyd_guest *g = NULL;
    struct fyd_host *host = check_migrate(d, m, &g, e);
    if (!host)
        return NULL;
    uint8_t id[FYD_ID_LEN];
    fy_random(id, sizeof id);
    struct fyd_job *j = fyd_job_new(d, FERRY__JOB_KIND__JOB_SEND, id);
    if (!j) {
        fy_fail(e, FY_ERESOURCE, "no memory for a job");
        return NULL;
    }
    fyd_copy(j->guest_name, sizeof j->guest_name, g->name);
    fyd_copy(j->peer, sizeof j->peer, host->row.name);
    Ferry__JobStart start = FERRY__JOB_START__INIT;
    Ferry__MigrateOptions none = FERRY__MIGRATE_OPTIONS__INIT;
    Ferry__PinnedPeer peer = FERRY__PINNED_PEER__INIT;
    Ferry__PinnedPeer *peers[] = {&peer};
    peer.host = host->row.name;
    peer.certificate_sha256 = (ProtobufCBinaryData){32, host->row.sha256};
    start.n_peers = 1;
    start.peers = peers;
    start.address = host->row.address;
    start.options = m->options ? m->options : &none;
    start.switch_ns = known_switch(d, host->row.name);
    int ctl = fyd_guest_connect(g, e);
    if (ctl < 0 || fyd_job_spawn(j, &start, &ctl, 1, e) < 0) {
        fy_close(&ctl);
        fyd_job_remove(j);
        return NULL;
    }
    fy_close(&ctl);
    j->guest = g;
    g->job = j;
    fyd_changed_guest(g, false);
    fyd_job_persist(j);
    fyd_changed_job(j, false);
    return j;
}
