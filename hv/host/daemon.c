// SPDX-License-Identifier: Apache-2.0
/* The daemon as a whole: opening, taking up what the last one left, closing. */
#include "hv/host/daemon.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/host/blk.h"
#include "hv/host/define.h"
#include "hv/host/guests.h"
#include "hv/host/net.h"
#include "hv/host/promise.h"
#include "hv/host/runlog.h"
#include "hv/host/spawn.h"

#define SWEEP_MS (10 * 60 * 1000)
#define MOVED_KEEP_NS (24ull * 3600 * 1000000000ull)

bool fyd_id_is_zero(const uint8_t id[FYD_ID_LEN])
{
    static const uint8_t zero[FYD_ID_LEN];
    return !memcmp(id, zero, FYD_ID_LEN);
}

bool fyd_name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n >= FYD_NAME_MAX || !isalnum((unsigned char)name[0]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
            return false;
    return true;
}

void fyd_copy(char *out, size_t room, const char *text)
{
    size_t n = strnlen(text, room - 1);
    memmove(out, text, n);
    out[n] = 0;
}

const char *fyd_program(const struct fyd *d, const char *name, char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s/%s", d->libexec, name);
    if (n < 0 || n >= PATH_MAX)
        out[0] = 0;
    return out;
}

static int find_libexec(struct fyd *d, const char *asked, struct fy_err *e)
{
    if (asked) {
        if (!realpath(asked, d->libexec))
            return fy_fail_errno(e, FY_EUSAGE, errno, "--libexec %s", asked);
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", d->libexec, sizeof d->libexec - 1);
    if (n < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "cannot find my own program");
    d->libexec[n] = 0;
    char *slash = strrchr(d->libexec, '/');
    if (slash)
        *slash = 0;
    return 0;
}

static int open_root(struct fyd *d, const char *root, struct fy_err *e)
{
    if (mkdir(root, 0700) < 0 && errno != EEXIST)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make root folder %s", root);
    if (!realpath(root, d->root))
        return fy_fail_errno(e, FY_EUSAGE, errno, "root folder %s", root);
    d->rootfd = open(d->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->rootfd < 0)
        return fy_fail_errno(e, FY_EUSAGE, errno, "root folder %s", d->root);
    if (mkdirat(d->rootfd, "guests", 0700) < 0 && errno != EEXIST)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make %s/guests", d->root);
    d->lockfd = openat(d->rootfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d->lockfd < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot open %s/lock", d->root);
    if (flock(d->lockfd, LOCK_EX | LOCK_NB) < 0)
        return fy_fail(e, FY_EEXISTS, "another ferryd serves %s (--root picks another folder)", d->root);
    d->runlog = openat(d->rootfd, "run.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (d->runlog < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot open %s/run.log", d->root);
    return 0;
}

static Ferry__Machine *read_machine(struct fyd_guest *g)
{
    char path[PATH_MAX];
    char *buf = NULL;
    size_t len = 0;
    fyd_guest_path(g, "machine.pb", path);
    if (fy_read_file(AT_FDCWD, path, 1024 * 1024, &buf, &len, NULL) < 0)
        return NULL;
    Ferry__Machine *m = ferry__machine__unpack(NULL, len, (uint8_t *)buf);
    free(buf);
    return m;
}

static void load_guest(struct fyd *d, const struct inv_guest *row)
{
    struct fyd_guest *g = fyd_guest_new(d, row->name, row->uuid, (enum fyd_gstate)row->state, NULL);
    if (!g)
        return;
    memcpy(g->run_id, row->run_id, FYD_ID_LEN);
    memcpy(g->handover, row->handover, FYD_ID_LEN);
    fyd_copy(g->report, sizeof g->report, row->report);
    fyd_copy(g->moved_to, sizeof g->moved_to, row->moved_to);
    g->exit_status = row->exit_status;
    g->changed_ns = row->changed_ns;
    g->revision = ++d->revision;
    g->machine = read_machine(g);
}

/* Guests are found again one after the other's answer; the hand-overs go on when all are known. */
struct recovery {
    struct fyd *d;
    unsigned open;
};

static void recovered_all(struct recovery *r)
{
    struct fyd *d = r->d;
    free(r);
    for (struct fyd_ho *h = d->handovers; h; h = h->next)
        if (h->restarted)
            fyd_ho_resume(h);
    fyd_jobs_resume(d);
    /* Begun by a daemon that died before the first record of its hand-over was durable. */
    struct fyd_guest *next;
    for (struct fyd_guest *g = d->guests; g; g = next) {
        next = g->next;
        struct fyd_ho *h = fyd_id_is_zero(g->handover) ? NULL : fyd_ho_find(d, g->handover);
        if (g->state == FYD_G_INCOMING && !h && g->pidfd < 0) {
            g->state = FYD_G_STOPPED;
            fyd_guest_remove(g);
        } else if ((g->state == FYD_G_HANDING || g->state == FYD_G_UNCERTAIN) &&
                   (!h || h->m.step == FY_HS_END)) {
            fyd_guest_set_state(g, g->pidfd >= 0 ? FYD_G_RUNNING : FYD_G_CRASHED);
            fyd_guest_ask_status(g);
        }
    }
    fyd_defs_ready(d);
    fyd_notify("READY=1\nSTATUS=serving");
}

struct found {
    struct recovery *r;
    struct fyd_guest *g;
};

static void found(void *arg, const struct fy_err *err)
{
    struct found *f = arg;
    struct fyd_guest *g = f->g;
    struct recovery *r = f->r;
    free(f);
    if (!err) {
        fy_info("guest %s: found again, process %d", g->name, (int)g->pid);
        /* A row that was written before the hypervisor served. */
        fyd_guest_persist(g, NULL, NULL);
    } else {
        fy_info("guest %s: %s", g->name, err->text);
        fyd_hv_free(g->link);
        g->link = NULL;
        bool undecided =
            g->state == FYD_G_INCOMING || g->state == FYD_G_HANDING || g->state == FYD_G_UNCERTAIN;
        struct fyd_ho *h = fyd_id_is_zero(g->handover) ? NULL : fyd_ho_find(r->d, g->handover);
        if (!undecided && h && h->m.step != FY_HS_END)
            undecided = true;
        if (!undecided) {
            fyd_copy(g->report, sizeof g->report, "its hypervisor ended while the daemon was away");
            fyd_guest_set_state(g, FYD_G_CRASHED);
        }
        char path[PATH_MAX];
        fyd_guest_path(g, "control.sock", path);
        unlink(path);
    }
    if (--r->open == 0)
        recovered_all(r);
}

static int recover(struct fyd *d, struct fy_err *e)
{
    struct recovery *r = calloc(1, sizeof *r);
    if (!r)
        return fy_fail(e, FY_ERESOURCE, "no memory to find guests again");
    *r = (struct recovery){.d = d, .open = 1};
    for (struct fyd_guest *g = d->guests; g; g = g->next) {
        if (!fyd_guest_active(g))
            continue;
        struct found *f = calloc(1, sizeof *f);
        if (!f) {
            if (r->open == 1)
                free(r); /* else those under way hold it */
            return fy_fail(e, FY_ERESOURCE, "no memory to find guests again");
        }
        *f = (struct found){r, g};
        r->open++;
        fyd_guest_find(g, found, f);
    }
    if (--r->open == 0)
        recovered_all(r);
    return 0;
}

static int load(struct fyd *d, struct fy_err *e)
{
    char path[PATH_MAX];
    struct inv_dump dump;
    if (snprintf(path, sizeof path, "%s/inventory.db", d->root) >= (int)sizeof path)
        return fy_fail(e, FY_EUSAGE, "the root folder's path is too long");
    d->inv = fyd_inv_open(d->loop, path, &dump, e);
    if (!d->inv)
        return -1;
    for (size_t i = 0; i < dump.host_count; i++)
        fyd_host_load(d, &dump.hosts[i]);
    for (size_t i = 0; i < dump.guest_count; i++)
        load_guest(d, &dump.guests[i]);
    for (size_t i = 0; i < dump.def_count; i++)
        fyd_def_load(d, &dump.defs[i]);
    for (size_t i = 0; i < dump.job_count; i++)
        fyd_job_load(d, &dump.jobs[i]);
    for (size_t i = 0; i < dump.handover_count; i++)
        fyd_ho_load(d, &dump.handovers[i]);
    for (struct fyd_host *h = d->hosts; h; h = h->next)
        h->revision = ++d->revision;
    for (struct fyd_job *j = d->jobs; j; j = j->next)
        j->revision = ++d->revision;
    fyd_inv_dump_free(&dump);
    return 0;
}

static void on_signal(int signo, void *arg)
{
    struct fyd *d = arg;
    fy_info("%s: stopping; guests run on", strsignal(signo));
    fyd_notify("STOPPING=1");
    fy_loop_stop(d->loop);
}

/* A guest that moved away is remembered for a day. A guest that resets itself all the time writes run log. */
static void on_sweep(void *arg)
{
    struct fyd *d = arg;
    uint64_t now = fy_realtime_ns();
    struct fyd_guest *next;
    for (struct fyd_guest *g = d->guests; g; g = next) {
        next = g->next;
        if (g->state == FYD_G_MOVED && !fyd_guest_active(g) && !g->forget &&
            g->changed_ns + MOVED_KEEP_NS < now)
            fyd_guest_remove(g);
    }
    fyd_runlog_trim(d);
    fy_timer_arm(d->sweep, SWEEP_MS);
}

static int open_all(struct fyd *d, const struct fyd_options *o, struct fy_err *e)
{
    fyd_boot_id(d->boot_id);
    /* Grows over restarts, so that a watcher's last revision stays below what it has not seen. */
    d->revision = fy_realtime_ns() / 1000;
    fyd_copy(d->listen, sizeof d->listen, o->listen ? o->listen : FYD_DEFAULT_LISTEN);
    static const char *const folders[] = {FYD_DEFAULT_DISKS};
    d->disk_folder_count = o->disk_folder_count ? o->disk_folder_count : 1;
    memcpy(d->disk_folders, o->disk_folder_count ? o->disk_folders : folders,
           d->disk_folder_count * sizeof *folders);
    if (o->engine && strcmp(o->engine, "auto") != 0)
        fyd_copy(d->engine, sizeof d->engine, o->engine);
    if (find_libexec(d, o->libexec, e) < 0 || open_root(d, o->root ? o->root : FYD_DEFAULT_ROOT, e) < 0 ||
        load(d, e) < 0)
        return -1;
    d->sigterm = fy_watch_signal(d->loop, SIGTERM, on_signal, d, e);
    d->sigint = d->sigterm ? fy_watch_signal(d->loop, SIGINT, on_signal, d, e) : NULL;
    d->sweep = d->sigint ? fy_timer_new(d->loop, on_sweep, d, e) : NULL;
    if (!d->sweep)
        return -1;
    fy_timer_arm(d->sweep, SWEEP_MS);
    if (fyd_peers_listen(d, e) < 0 || fyd_api_listen(d, e) < 0)
        return -1;
    return recover(d, e);
}

struct fyd *fyd_open(const struct fyd_options *o, struct fy_loop *loop, struct fy_err *e)
{
    struct fyd *d = calloc(1, sizeof *d);
    if (!d) {
        fy_fail(e, FY_ERESOURCE, "no memory for the daemon");
        return NULL;
    }
    d->loop = loop;
    d->memory_ratio = o->memory_ratio > 0 ? o->memory_ratio : FYD_MEMORY_RATIO;
    d->cpu_ratio = o->cpu_ratio > 0 ? o->cpu_ratio : FYD_CPU_RATIO;
    d->rootfd = d->lockfd = d->runlog = d->api_sock = d->peer_sock = -1;
    if (open_all(d, o, e) < 0) {
        fyd_close(d);
        return NULL;
    }
    return d;
}

void fyd_close(struct fyd *d)
{
    fyd_moves_free_all(d); /* they hold clients */
    fyd_api_close(d);
    fyd_peers_close(d);
    /* Workers die with us; hypervisors do not, and are found again. */
    fyd_ho_free_all(d);
    fyd_jobs_free_all(d);
    fyd_guests_free_all(d);
    fyd_usernets_free_all(d);
    fyd_blks_free_all(d);
    fyd_hosts_free_all(d);
    fyd_defs_free_all(d);
    fyd_inv_close(d->inv);
    fy_watch_free(d->invite.timer);
    fy_watch_free(d->sweep);
    fy_watch_free(d->sigterm);
    fy_watch_free(d->sigint);
    fy_close(&d->runlog);
    fy_close(&d->lockfd);
    fy_close(&d->rootfd);
    free(d);
}
