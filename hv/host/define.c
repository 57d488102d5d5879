// SPDX-License-Identifier: Apache-2.0
/* Definitions in memory and on disk, and what becomes of them when their guests start, end and move. */
#include "hv/host/define_start.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"

#define BACKOFF_MS 1000u
#define BACKOFF_MAX_MS 300000u
#define STEADY_NS (60ull * 1000000000) /* who ran that long begins with the shortest wait again */

static const char head[] =
    "# Written by ferryd, which keeps its own copy: change it by vmctl set, or vmctl create --replace -f.\n";

struct fyd_def *fyd_def_find(struct fyd *d, const char *name)
{
    for (struct fyd_def *f = d->defs; f; f = f->next)
        if (!f->gone && !strcmp(f->def.name, name))
            return f;
    return NULL;
}

bool fyd_def_autostart(const struct fyd_def *def)
{
    return fy_def_number(&def->def, "autostart", 0) != 0;
}

const char *fyd_def_restart(const struct fyd_def *def)
{
    const char *how = fy_def_text(&def->def, "restart");
    return how ? how : "no";
}

static int folder(struct fyd *d)
{
    if (mkdirat(d->rootfd, "definitions", 0700) < 0 && errno != EEXIST)
        return -1;
    return openat(d->rootfd, "definitions", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* The readable copy. The row is what counts, so a failure is only told. */
static void write_file(struct fyd_def *def, const char *yaml)
{
    char name[FYD_NAME_MAX + 8];
    char *all = NULL, *old = NULL;
    size_t len = 0;
    struct fy_err e = {0};
    int dir = folder(def->d);
    snprintf(name, sizeof name, "%s.yaml", def->def.name);
    int n = asprintf(&all, "%s%s", head, yaml);
    bool same = dir >= 0 && n >= 0 && fy_read_file(dir, name, 2 * FY_DEF_TEXT_MAX, &old, &len, &e) == 0 &&
                len == (size_t)n && !memcmp(old, all, len);
    if (dir < 0 || n < 0)
        fy_warn("definition %s: cannot write its file", def->def.name);
    else if (!same && fy_write_file_durable(dir, name, all, (size_t)n, 0600, &e) < 0)
        fy_warn("definition %s: %s", def->def.name, e.text);
    fy_close(&dir);
    free(old);
    if (n >= 0)
        free(all);
}

struct fyd_def_write {
    struct fyd_def_write *next;
    struct fyd_def *def;
    char *yaml;
    fyd_inv_cb cb;
    void *arg;
};

static void free_def(struct fyd_def *def)
{
    for (struct fyd_def **p = &def->d->defs; *p; p = &(*p)->next)
        if (*p == def) {
            *p = def->next;
            break;
        }
    while (def->writes) {
        struct fyd_def_write *w = def->writes;
        def->writes = w->next;
        free(w->yaml);
        free(w);
    }
    fy_watch_free(def->timer);
    fy_def_free(&def->def);
    free(def);
}

static void written(void *arg, const struct fy_err *err)
{
    struct fyd_def_write *w = arg;
    struct fyd_def *def = w->def;
    def->writes = w->next; /* they end in their order */
    def->unsaved = err || def->writes;
    if (!err && !def->gone && !def->writes)
        write_file(def, w->yaml);
    def->held = true;
    if (w->cb)
        w->cb(w->arg, err);
    def->held = false;
    free(w->yaml);
    free(w);
    if (def->gone && !def->writes)
        free_def(def);
}

void fyd_def_persist(struct fyd_def *def, fyd_inv_cb cb, void *arg)
{
    struct inv_def row = {.changed_ns = fy_realtime_ns()};
    struct fyd_def_write **last = &def->writes;
    struct fyd_def_write *w = calloc(1, sizeof *w);
    char *yaml = fy_def_write(&def->def);
    def->unsaved = true;
    if (!w || !yaml) {
        fy_error("definition %s: no memory to write it", def->def.name);
        free(w);
        free(yaml);
        if (cb)
            cb(arg, &(struct fy_err){FY_ERESOURCE, "no memory to write the definition"});
        return;
    }
    *w = (struct fyd_def_write){.def = def, .yaml = yaml, .cb = cb, .arg = arg};
    fyd_copy(row.name, sizeof row.name, def->def.name);
    memcpy(row.run, def->run, FYD_ID_LEN);
    fyd_copy(row.moved_to, sizeof row.moved_to, def->moved_to);
    row.yaml = yaml;
    while (*last)
        last = &(*last)->next;
    *last = w;
    fyd_inv_put_def(def->d->inv, &row, written, w);
}

static void on_again(void *arg)
{
    fyd_def_start(arg);
}

static struct fyd_def *new_def(struct fyd *d)
{
    struct fyd_def *def = calloc(1, sizeof *def);
    if (!def)
        return NULL;
    def->d = d;
    def->timer = fy_timer_new(d->loop, on_again, def, NULL);
    if (!def->timer) {
        free(def);
        return NULL;
    }
    def->next = d->defs;
    d->defs = def;
    return def;
}

struct fyd_def *fyd_def_new(struct fyd *d, struct fy_def *from)
{
    struct fyd_def *def = new_def(d);
    if (def) {
        def->def = *from;
        *from = (struct fy_def){0};
    }
    return def;
}

void fyd_def_load(struct fyd *d, const struct inv_def *row)
{
    struct fy_err e = {FY_ERESOURCE, "no memory"};
    struct fyd_def *def = new_def(d);
    if (!def || !row->yaml || fy_def_parse(row->yaml, strlen(row->yaml), &def->def, &e) < 0) {
        /* It stays in the inventory: what does not understand it must not lose it. */
        fy_error("definition %s cannot be read and is left alone: %s", row->name, e.text);
        if (def)
            free_def(def);
        return;
    }
    memcpy(def->run, row->run, FYD_ID_LEN);
    fyd_copy(def->moved_to, sizeof def->moved_to, row->moved_to);
    write_file(def, row->yaml);
}

void fyd_defs_free_all(struct fyd *d)
{
    while (d->defs)
        free_def(d->defs);
}

void fyd_def_delete(struct fyd_def *def)
{
    static const char *const suffixes[] = {".yaml", ".log"};
    char name[FYD_NAME_MAX + 8];
    int dir = folder(def->d);
    for (size_t i = 0; dir >= 0 && i < 2; i++) {
        snprintf(name, sizeof name, "%s%s", def->def.name, suffixes[i]);
        unlinkat(dir, name, 0);
    }
    fy_close(&dir);
    def->gone = true;
    fy_timer_disarm(def->timer);
    if (!def->writes && !def->held)
        free_def(def);
}

/* The record of its last start has been lost, or says that the guest is elsewhere or that nobody knows yet.
 */
static int check_last_run(const struct fyd_def *def, struct fy_err *e)
{
    const struct fyd_guest *g = fyd_guest_by_uuid(def->d, def->run);
    if (!g)
        return fy_fail(e, FY_ESTATE,
                       "how its last run ended is not known (`vmctl start %s --here` if it runs nowhere)",
                       def->def.name);
    if (g->state == FYD_G_MOVED)
        return fy_fail(e, FY_ESTATE, "it has moved to %s", g->moved_to);
    if (fyd_guest_active(g))
        return fy_fail(e, FY_EEXISTS, "it is %s already", fyd_gstate_name(g->state));
    /* The journal has the last word on a guest that was being handed over. */
    const struct fyd_ho *h = fyd_id_is_zero(g->handover) ? NULL : fyd_ho_find(def->d, g->handover);
    if (h && h->source && h->m.journal != FY_HO_ABORTED && h->m.journal != FY_HO_NONE)
        return fy_fail(e, FY_ESTATE, "it was handed over to %s", h->peer);
    return 0;
}

int fyd_def_may_start(struct fyd *d, const char *name, bool here, struct fy_err *e)
{
    const struct fyd_def *def = fyd_def_find(d, name);
    const struct fyd_guest *g = fyd_guest_by_name(d, name);
    /* First where it is: its process here may still be ending. */
    if (def && !here && *def->moved_to)
        return fy_fail(e, FY_ESTATE,
                       "it has moved to %s (start it there; once it has ended there, `vmctl start %s --here` "
                       "has it back)",
                       def->moved_to, name);
    if (g && fyd_guest_active(g))
        return fy_fail(e, FY_EEXISTS, "the name is taken by a guest that is %s (stop it first)",
                       fyd_gstate_name(g->state));
    return !def || here || fyd_id_is_zero(def->run) ? 0 : check_last_run(def, e);
}

void fyd_def_begin(struct fyd_guest *g)
{
    struct fyd_def *def = fyd_def_find(g->d, g->name);
    if (!def)
        return;
    fy_timer_disarm(def->timer);
    memcpy(def->run, g->uuid, FYD_ID_LEN);
    def->moved_to[0] = 0;
    def->begun_ns = fy_now_ns();
    fyd_def_persist(def, NULL, NULL);
}

int fyd_def_begun(struct fyd_guest *g, struct fy_err *e)
{
    const struct fyd_def *def = fyd_def_find(g->d, g->name);
    if (!def || !def->unsaved)
        return 0;
    return fy_fail(e, FY_ERESOURCE,
                   "its definition cannot be written, so it is not started (is the disk full?)");
}

/* Start it again, later each time. */
static void after_crash(struct fyd_def *def)
{
    if (strcmp(fyd_def_restart(def), "on-crash") != 0)
        return;
    if (def->begun_ns && fy_now_ns() - def->begun_ns > STEADY_NS)
        def->crashes = 0;
    unsigned shift = def->crashes < 9 ? def->crashes : 9;
    unsigned ms = BACKOFF_MS << shift;
    ms = ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS;
    def->crashes++;
    fy_info("guest %s: starts again in %u ms", def->def.name, ms);
    fy_timer_arm(def->timer, ms);
}

void fyd_def_start_failed(struct fyd_def *def)
{
    after_crash(def);
}

/* A guest came here from another host: it is the run of the definition of its name, where that has none. */
static bool adopts(const struct fyd_def *def, const struct fyd_guest *g)
{
    if (*def->moved_to || strcmp(def->def.name, g->name) != 0)
        return false;
    const struct fyd_guest *last = fyd_id_is_zero(def->run) ? NULL : fyd_guest_by_uuid(def->d, def->run);
    return fyd_id_is_zero(def->run) || (last && !fyd_guest_active(last) && last->state != FYD_G_MOVED);
}

void fyd_def_guest_changed(struct fyd_guest *g)
{
    struct fyd_def *def = fyd_def_find(g->d, g->name);
    if (!def)
        return;
    bool runs = g->state == FYD_G_RUNNING || g->state == FYD_G_PAUSED;
    bool ended = g->state == FYD_G_STOPPED || g->state == FYD_G_CRASHED;
    bool own = !memcmp(def->run, g->uuid, FYD_ID_LEN);
    if (!own && runs && adopts(def, g)) {
        memcpy(def->run, g->uuid, FYD_ID_LEN);
        def->begun_ns = fy_now_ns();
        fyd_def_persist(def, NULL, NULL);
    } else if (own && g->state == FYD_G_MOVED) {
        fyd_copy(def->moved_to, sizeof def->moved_to, g->moved_to);
        fyd_def_persist(def, NULL, NULL);
    } else if (own && (runs || ended) && *def->moved_to) {
        /* Back from where it was. */
        def->moved_to[0] = 0;
        fyd_def_persist(def, NULL, NULL);
    }
    if (own && g->state == FYD_G_CRASHED)
        after_crash(def);
}

/* Its log outlives it by one run. */
static void keep_log(const struct fyd_def *def, const struct fyd_guest *g)
{
    char path[PATH_MAX], name[FYD_NAME_MAX + 8];
    int dir = folder(def->d);
    fyd_guest_path(g, "log", path);
    snprintf(name, sizeof name, "%s.log", def->def.name);
    if (dir < 0 || (renameat(AT_FDCWD, path, dir, name) < 0 && errno != ENOENT))
        fy_warn("guest %s: cannot keep its log: %s", g->name, strerror(errno));
    fy_close(&dir);
}

void fyd_def_guest_removed(struct fyd_guest *g)
{
    struct fyd_def *def = fyd_def_find(g->d, g->name);
    if (!def || memcmp(def->run, g->uuid, FYD_ID_LEN) != 0)
        return;
    keep_log(def, g);
    fy_timer_disarm(def->timer);
    if (g->state == FYD_G_MOVED)
        fyd_copy(def->moved_to, sizeof def->moved_to, g->moved_to);
    else if (!*def->moved_to) /* else it only failed to come back */
        memset(def->run, 0, FYD_ID_LEN);
    fyd_def_persist(def, NULL, NULL);
}

void fyd_defs_ready(struct fyd *d)
{
    struct fyd_def *next;
    for (struct fyd_def *def = d->defs; def; def = next) {
        next = def->next;
        struct fyd_guest *g = fyd_id_is_zero(def->run) ? NULL : fyd_guest_by_uuid(d, def->run);
        struct fy_err e;
        if (fyd_def_autostart(def)) {
            if (fyd_def_may_start(d, def->def.name, false, &e) == 0)
                fyd_def_start(def);
            else if (e.code != FY_EEXISTS)
                fy_warn("guest %s is not started by itself: %s", def->def.name, e.text);
        } else if (g && g->state == FYD_G_CRASHED) {
            after_crash(def);
        }
    }
}
