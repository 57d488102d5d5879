// SPDX-License-Identifier: Apache-2.0
/* The guests that this daemon knows: their records, folders and ends. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/hex.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"
#include "hv/host/blk.h"
#include "hv/host/define.h"
#include "hv/host/guests.h"
#include "hv/host/net.h"
#include "hv/host/spawn.h"

const char *fyd_gstate_name(enum fyd_gstate s)
{
    static const char *const names[] = {"unknown",      "starting",  "running", "paused",  "incoming",
                                        "handing-over", "uncertain", "stopped", "crashed", "moved"};
    return (unsigned)s < sizeof names / sizeof *names ? names[s] : names[0];
}

bool fyd_guest_active(const struct fyd_guest *g)
{
    return g->pidfd >= 0 || g->launched ||
           (g->state != FYD_G_STOPPED && g->state != FYD_G_CRASHED && g->state != FYD_G_MOVED);
}

/* An active one is preferred: a guest that moved away leaves its name to others. */
struct fyd_guest *fyd_guest_by_name(struct fyd *d, const char *name)
{
    struct fyd_guest *found = NULL;
    for (struct fyd_guest *g = d->guests; g; g = g->next)
        if (!g->forget && !strcmp(g->name, name) && (!found || fyd_guest_active(g)))
            found = g;
    return found;
}

struct fyd_guest *fyd_guest_by_uuid(struct fyd *d, const uint8_t uuid[FYD_ID_LEN])
{
    for (struct fyd_guest *g = d->guests; g; g = g->next)
        if (!g->forget && !memcmp(g->uuid, uuid, FYD_ID_LEN))
            return g;
    return NULL;
}

struct fyd_guest *fyd_guest_new(struct fyd *d, const char *name, const uint8_t uuid[FYD_ID_LEN],
                                enum fyd_gstate state, struct fy_err *e)
{
    struct fyd_guest *g = calloc(1, sizeof *g);
    if (!g) {
        fy_fail(e, FY_ERESOURCE, "no memory for a guest's record");
        return NULL;
    }
    g->d = d;
    fyd_copy(g->name, sizeof g->name, name);
    memcpy(g->uuid, uuid, FYD_ID_LEN);
    g->state = state;
    g->changed_ns = fy_realtime_ns();
    g->pidfd = -1;
    g->ready_sock = -1;
    g->exit_status = -1;
    g->next = d->guests;
    d->guests = g;
    return g;
}

void fyd_guest_path(const struct fyd_guest *g, const char *file, char out[PATH_MAX])
{
    char uuid[FY_UUID_TEXT];
    fy_uuid_format(g->uuid, uuid);
    int n = snprintf(out, PATH_MAX, "%s/guests/%s%s%s", g->d->root, uuid, *file ? "/" : "", file);
    if (n < 0 || n >= PATH_MAX)
        out[0] = 0;
}

static void remove_folder(const struct fyd_guest *g)
{
    static const char *const files[] = {"control.sock", "machine.pb", "log", "console.log.0",
                                        "console.log.1"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        fyd_guest_path(g, files[i], path);
        if (unlink(path) < 0 && errno != ENOENT)
            fy_warn("cannot remove %s: %s", path, strerror(errno));
    }
    fyd_guest_path(g, "", path);
    if (rmdir(path) < 0 && errno != ENOENT)
        fy_warn("cannot remove %s: %s", path, strerror(errno));
}

static void free_guest(struct fyd_guest *g)
{
    for (struct fyd_guest **p = &g->d->guests; *p; p = &(*p)->next)
        if (*p == g) {
            *p = g->next;
            break;
        }
    for (struct fyd_job *j = g->d->jobs; j; j = j->next)
        if (j->guest == g)
            j->guest = NULL;
    for (struct fyd_ho *h = g->d->handovers; h; h = h->next)
        if (h->guest == g)
            h->guest = NULL;
    fyd_usernet_forget(g);
    fyd_blk_forget(g);
    fyd_guest_forget_nics(g);
    fyd_hv_free(g->link);
    fy_watch_free(g->ready_watch);
    fy_watch_free(g->pid_watch);
    fy_watch_free(g->end_timer);
    fy_close(&g->ready_sock);
    fy_close(&g->pidfd);
    if (g->machine)
        ferry__machine__free_unpacked(g->machine, NULL);
    free(g);
}

struct post {
    struct fyd_guest *g;
    void (*cb)(struct fyd_guest *g);
};

static void on_post(void *arg)
{
    struct post p = *(struct post *)arg;
    free(arg);
    if (p.cb)
        p.cb(p.g);
    /* The last of them frees what is to be forgotten. */
    if (--p.g->posts == 0 && p.g->forget && !p.g->waits && !p.g->launched && p.g->pidfd < 0)
        free_guest(p.g);
}

void fyd_guest_post(struct fyd_guest *g, void (*cb)(struct fyd_guest *g))
{
    struct post *p = malloc(sizeof *p);
    if (!p) {
        fy_error("no memory for a posted call");
        return;
    }
    *p = (struct post){g, cb};
    g->posts++;
    if (fy_loop_post(g->d->loop, on_post, p, NULL) < 0) {
        g->posts--;
        free(p);
    }
}

void fyd_guest_remove(struct fyd_guest *g)
{
    if (g->forget)
        return;
    g->forget = true;
    fyd_def_guest_removed(g);
    remove_folder(g);
    fyd_inv_del_guest(g->d->inv, g->uuid, NULL, NULL);
    fyd_changed_guest(g, true);
    for (struct fyd_ho *h = g->d->handovers; h; h = h->next)
        if (h->guest == g)
            h->guest = NULL;
    if (g->job)
        g->job->guest = NULL;
    g->job = NULL;
    fyd_guest_post(g, NULL);
}

void fyd_guest_persist(struct fyd_guest *g, fyd_inv_cb cb, void *arg)
{
    struct inv_guest row = {.pid = (uint32_t)g->pid,
                            .state = (uint32_t)g->state,
                            .exit_status = g->exit_status,
                            .changed_ns = g->changed_ns};
    memcpy(row.uuid, g->uuid, FYD_ID_LEN);
    memcpy(row.run_id, g->run_id, FYD_ID_LEN);
    memcpy(row.handover, g->handover, FYD_ID_LEN);
    fyd_copy(row.name, sizeof row.name, g->name);
    fyd_copy(row.report, sizeof row.report, g->report);
    fyd_copy(row.moved_to, sizeof row.moved_to, g->moved_to);
    fyd_inv_put_guest(g->d->inv, &row, cb, arg);
}

void fyd_guest_warn_of(struct fyd_guest *g, const char *device, const char *text)
{
    size_t len = strlen(device);
    bool mine = !strncmp(g->warning, device, len) && g->warning[len] == ':';
    if (!*text && !mine)
        return;
    if (*text)
        snprintf(g->warning, sizeof g->warning, "%s: %.220s", device, text);
    else
        g->warning[0] = 0;
    if (!g->forget)
        fyd_changed_guest(g, false);
}

void fyd_guest_set_state(struct fyd_guest *g, enum fyd_gstate state)
{
    if (g->state == state)
        return;
    /* Whether it runs or is paused is the hypervisor's to say; it is not worth a write to the disk. */
    bool light = (g->state == FYD_G_RUNNING || g->state == FYD_G_PAUSED) &&
                 (state == FYD_G_RUNNING || state == FYD_G_PAUSED);
    fy_info("guest %s: %s -> %s", g->name, fyd_gstate_name(g->state), fyd_gstate_name(state));
    g->state = state;
    g->changed_ns = fy_realtime_ns();
    if (!g->forget)
        fyd_def_guest_changed(g);
    if (!light && !g->forget)
        fyd_guest_persist(g, NULL, NULL);
    if (!g->forget)
        fyd_changed_guest(g, false);
}

void fyd_guest_kill(struct fyd_guest *g)
{
    g->end_asked = true;
    fyd_kill(g->pidfd);
}

int fyd_guest_connect(struct fyd_guest *g, struct fy_err *e)
{
    char path[PATH_MAX];
    fyd_guest_path(g, "control.sock", path);
    int sock = fy_msg_connect(path, e);
    if (sock < 0)
        fy_fail_prefix(e, "the hypervisor of %s does not answer", g->name);
    return sock;
}

static void end_now(struct fyd_guest *g)
{
    struct fyd_end_wait *w = g->waits;
    g->waits = NULL;
    while (w) {
        struct fyd_end_wait *next = w->next;
        w->cb(w->arg, g);
        free(w);
        w = next;
    }
}

void fyd_guest_on_end(struct fyd_guest *g, void (*cb)(void *arg, struct fyd_guest *g), void *arg)
{
    struct fyd_end_wait *w = calloc(1, sizeof *w);
    if (!w) {
        cb(arg, g);
        return;
    }
    *w = (struct fyd_end_wait){.next = g->waits, .cb = cb, .arg = arg};
    g->waits = w;
    if (g->pidfd < 0)
        fyd_guest_post(g, end_now);
}

void fyd_guest_cancel_end(struct fyd_guest *g, void *arg)
{
    for (struct fyd_end_wait **p = &g->waits; *p; p = &(*p)->next)
        if ((*p)->arg == arg) {
            struct fyd_end_wait *w = *p;
            *p = w->next;
            free(w);
            return;
        }
}

static void quit_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)arg;
    (void)err;
    (void)r;
    (void)fds;
    (void)nfds;
}

static void on_end_timer(void *arg)
{
    struct fyd_guest *g = arg;
    fy_warn("guest %s: its hypervisor does not end; killing it", g->name);
    fyd_kill(g->pidfd);
}

void fyd_guest_end_soon(struct fyd_guest *g, unsigned ms)
{
    fy_watch_free(g->end_timer);
    g->end_timer = g->pidfd >= 0 ? fy_timer_new(g->d->loop, on_end_timer, g, NULL) : NULL;
    if (g->end_timer)
        fy_timer_arm(g->end_timer, ms);
}

/* The guest has ended in its hypervisor: read what is to be kept, then let the process go. */
void fyd_guest_ended_word(struct fyd_guest *g, bool crashed, const char *report, int exit_status)
{
    if (g->ended_word)
        return;
    g->ended_word = true;
    fyd_copy(g->report, sizeof g->report, report ? report : "");
    g->exit_status = exit_status;
    fyd_guest_set_state(g, crashed ? FYD_G_CRASHED : FYD_G_STOPPED);
    if (g->link) {
        Ferry__QuitRequest quit = FERRY__QUIT_REQUEST__INIT;
        Ferry__Request req = FERRY__REQUEST__INIT;
        quit.discard = true;
        req.op_case = FERRY__REQUEST__OP_QUIT;
        req.quit = &quit;
        fyd_hv_call(g->link, &req, NULL, 0, 2000, quit_answered, NULL);
    }
    fyd_guest_end_soon(g, 2000);
}

static void final_state(struct fyd_guest *g, const char *how)
{
    switch (g->state) {
    case FYD_G_STOPPED:
    case FYD_G_CRASHED:
    case FYD_G_MOVED:
        return;
    case FYD_G_HANDING:
    case FYD_G_UNCERTAIN:
    case FYD_G_INCOMING:
        /* The hand-over decides; it is told below. */
        if (!g->end_asked)
            snprintf(g->report, sizeof g->report, "its hypervisor %s", how);
        return;
    default:
        if (!g->end_asked)
            snprintf(g->report, sizeof g->report,
                     "its hypervisor %s; its last words are in the log of its folder", how);
        fyd_guest_set_state(g, g->end_asked ? FYD_G_STOPPED : FYD_G_CRASHED);
    }
}

/* Its process is dead and reaped. */
void fyd_guest_process_ended(struct fyd_guest *g, const char *how)
{
    char path[PATH_MAX];
    if (g->link)
        fyd_hv_drain(g->link);
    fyd_hv_free(g->link);
    g->link = NULL;
    fy_watch_free(g->pid_watch);
    g->pid_watch = NULL;
    fy_watch_free(g->end_timer);
    g->end_timer = NULL;
    fy_close(&g->pidfd);
    g->pid = 0;
    fyd_usernet_forget(g);
    fyd_blk_forget(g);
    fyd_limits_leave(g);
    fyd_guest_path(g, "control.sock", path);
    unlink(path);
    fy_info("guest %s: the hypervisor %s", g->name, how);
    if (!g->launched)
        final_state(g, how);
    if (g->state == FYD_G_MOVED)
        remove_folder(g);
    struct fyd_ho *ho = fyd_id_is_zero(g->handover) ? NULL : fyd_ho_find(g->d, g->handover);
    if (ho && !g->launched)
        fyd_ho_feed(ho, FY_HE_H_GONE);
    if (g->waits)
        fyd_guest_post(g, end_now);
}

void fyd_guests_free_all(struct fyd *d)
{
    struct fyd_guest *next;
    for (struct fyd_guest *g = d->guests; g; g = next) {
        next = g->next;
        g->launched = NULL;
        while (g->waits) {
            struct fyd_end_wait *w = g->waits;
            g->waits = w->next;
            free(w);
        }
        free_guest(g);
    }
}
