// SPDX-License-Identifier: Apache-2.0
/* API requests about definitions. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/host/define.h"
#include "hv/host/define_start.h"
#include "hv/host/engine.h"

/* A change that is being written. Where that fails, the definition is as it was. */
struct change {
    struct fyd_client *c;
    struct fyd *d;
    char name[FYD_NAME_MAX];
    bool fresh;
    struct fy_def old;
};

static void changed(void *arg, const struct fy_err *err)
{
    struct change *ch = arg;
    struct fyd_def *def = fyd_def_find(ch->d, ch->name);
    if (err && def && ch->fresh) {
        fyd_def_delete(def);
    } else if (err && def) {
        struct fy_def refused = def->def;
        def->def = ch->old;
        ch->old = refused;
    }
    if (err)
        fyd_reply_error(ch->c, err);
    else
        fyd_reply_done(ch->c);
    struct fyd_guest *g = fyd_guest_by_name(ch->d, ch->name);
    if (!err && g)
        fyd_changed_guest(g, false);
    fyd_client_release(ch->c);
    fy_def_free(&ch->old);
    free(ch);
}

/* `def` has been changed, or is fresh; old is what it was, and empty afterwards. */
static void write_change(struct fyd_client *c, struct fyd_def *def, struct fy_def *old, bool fresh)
{
    struct change *ch = calloc(1, sizeof *ch);
    if (!ch) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        if (fresh) {
            fyd_def_delete(def);
        } else {
            fy_def_free(&def->def);
            def->def = *old;
            *old = (struct fy_def){0};
        }
        return;
    }
    ch->c = c;
    ch->d = c->d;
    ch->fresh = fresh;
    ch->old = *old;
    *old = (struct fy_def){0};
    fyd_copy(ch->name, sizeof ch->name, def->def.name);
    fyd_client_hold(c);
    fyd_def_persist(def, changed, ch);
}

static int check(const struct fy_def *def, struct fy_err *e)
{
    struct fyd_engine engine;
    const char *name = fy_def_text(def, "engine");
    if (fy_def_check(def, e) < 0 || fyd_def_supported(def, e) < 0 ||
        fyd_engine_parse(name ? name : "", &engine, e) < 0)
        return -1;
    return fyd_engine_fits(&engine, (uint32_t)fy_def_number(def, "cpus", 1), e);
}

void fyd_reply_no_guest(struct fyd_client *c, const char *name)
{
    const struct fyd_def *def = fyd_def_find(c->d, name);
    if (!def)
        fyd_reply_fail(c, FY_ENOTFOUND, "no such guest (`vmctl status` shows them)");
    else if (*def->moved_to)
        fyd_reply_fail(c, FY_ESTATE, "it has moved to %s (ask there)", def->moved_to);
    else
        fyd_reply_fail(c, FY_ESTATE, "it does not run (`vmctl start %s`)", name);
}

static struct fyd_def *find(struct fyd_client *c, const char *name)
{
    struct fyd_def *def = fyd_def_find(c->d, name);
    if (!def)
        fyd_reply_fail(c, FY_ENOTFOUND, "it has no definition (`vmctl create` makes one)");
    return def;
}

void fyd_api_define(struct fyd_client *c, const Ferry__ApiDefine *op)
{
    struct fy_def parsed = {0}, old = {0};
    struct fy_err e;
    if (fy_def_parse(op->yaml, strlen(op->yaml), &parsed, &e) < 0 || check(&parsed, &e) < 0) {
        fyd_reply_error(c, &e);
        fy_def_free(&parsed);
        return;
    }
    struct fyd_def *def = fyd_def_find(c->d, parsed.name);
    bool fresh = !def;
    if (def && !op->replace) {
        fyd_reply_fail(c, FY_EEXISTS,
                       "it has a definition already (--replace replaces it, `vmctl set` changes it)");
    } else if (fresh && !(def = fyd_def_new(c->d, &parsed))) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the definition");
    } else if (fresh) {
        /* A guest of the name that runs already is its run. */
        const struct fyd_guest *g = fyd_guest_by_name(c->d, def->def.name);
        if (g && fyd_guest_active(g))
            memcpy(def->run, g->uuid, FYD_ID_LEN);
        write_change(c, def, &old, true);
    } else {
        old = def->def;
        def->def = parsed;
        parsed = (struct fy_def){0};
        write_change(c, def, &old, false);
    }
    fy_def_free(&parsed);
}

void fyd_api_set(struct fyd_client *c, const Ferry__ApiSet *op)
{
    struct fyd_def *def = find(c, op->name);
    struct fy_def copy = {0};
    struct fy_err e = {FY_ERESOURCE, "no memory for the request"};
    char *yaml = def ? fy_def_write(&def->def) : NULL;
    if (!def)
        return;
    if (!op->n_assignments) {
        fyd_reply_fail(c, FY_EUSAGE, "nothing to set (write it like memory=2G)");
    } else if (!yaml || fy_def_parse(yaml, strlen(yaml), &copy, &e) < 0 ||
               fy_def_assign(&copy, op->assignments, op->n_assignments, &e) < 0 || check(&copy, &e) < 0) {
        fyd_reply_error(c, &e);
        fy_def_free(&copy);
    } else {
        struct fy_def old = def->def;
        def->def = copy;
        write_change(c, def, &old, false);
    }
    free(yaml);
}

static void deleted(void *arg, const struct fy_err *err)
{
    struct fyd_client *c = arg;
    if (err)
        fyd_reply_error(c, err);
    else
        fyd_reply_done(c);
    fyd_client_release(c);
}

void fyd_api_undefine(struct fyd_client *c, const char *name)
{
    struct fyd_def *def = find(c, name);
    if (!def)
        return;
    struct fyd_guest *g = fyd_guest_by_name(c->d, name);
    if (g && fyd_guest_active(g)) {
        fyd_reply_fail(c, FY_ESTATE, "it is %s (stop it first)", fyd_gstate_name(g->state));
        return;
    }
    if (g && g->state != FYD_G_MOVED)
        fyd_guest_remove(g);
    /* The next guest of this name is another one: it begins with variables of its own. */
    char nvram[FYD_NAME_MAX + 8];
    snprintf(nvram, sizeof nvram, "nvram/%s", def->def.name);
    unlinkat(c->d->rootfd, nvram, 0);
    fyd_client_hold(c);
    fyd_inv_del_def(c->d->inv, def->def.name, deleted, c);
    fyd_def_delete(def);
}

void fyd_api_export(struct fyd_client *c, const char *name)
{
    struct fyd_def *def = find(c, name);
    char *yaml = def ? fy_def_write(&def->def) : NULL;
    if (yaml)
        fyd_reply_text(c, yaml, true);
    else if (def)
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the answer");
    free(yaml);
}

static bool is_later(const struct stat *a, const struct stat *b)
{
    return a->st_mtim.tv_sec != b->st_mtim.tv_sec ? a->st_mtim.tv_sec > b->st_mtim.tv_sec
                                                  : a->st_mtim.tv_nsec > b->st_mtim.tv_nsec;
}

/* The files that its hypervisor fills by turns (hv/vm/conlog.h). */
static void console_logs(struct fyd_client *c, const struct fyd_guest *g)
{
    static const char *const names[] = {"console.log.0", "console.log.1"};
    char path[PATH_MAX];
    struct stat st[2];
    int fds[2] = {-1, -1};
    bool ok = g != NULL;
    for (int i = 0; ok && i < 2; i++) {
        fyd_guest_path(g, names[i], path);
        fds[i] = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        ok = fds[i] >= 0 && fstat(fds[i], &st[i]) == 0;
    }
    if (ok) {
        Ferry__ApiReply r = FERRY__API_REPLY__INIT;
        bool swap = is_later(&st[0], &st[1]);
        const int ordered[2] = {fds[swap], fds[!swap]};
        r.last = true;
        fyd_reply(c, &r, ordered, 2);
    } else {
        fyd_reply_fail(c, FY_ENOTFOUND,
                       g ? "no log is kept of its console" : "no such guest (`vmctl status` shows them)");
    }
    fy_close(&fds[0]);
    fy_close(&fds[1]);
}

void fyd_api_logs(struct fyd_client *c, const Ferry__ApiLogs *op)
{
    char path[PATH_MAX] = "";
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    const struct fyd_guest *g = fyd_guest_by_name(c->d, op->name);
    const struct fyd_def *def = fyd_def_find(c->d, op->name);
    if (op->console) {
        console_logs(c, g);
        return;
    }
    if (g && !op->previous)
        fyd_guest_path(g, "log", path);
    else if (def && snprintf(path, sizeof path, "%s/definitions/%s.log", c->d->root, def->def.name) >=
                        (int)sizeof path)
        path[0] = 0;
    int fd = *path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    r.last = true;
    if (fd >= 0)
        fyd_reply(c, &r, &fd, 1);
    else if (!g && !def)
        fyd_reply_fail(c, FY_ENOTFOUND, "no such guest (`vmctl status` shows them)");
    else
        fyd_reply_fail(c, FY_ENOTFOUND, "no log is kept of it%s%s",
                       g && g->state == FYD_G_MOVED ? " here: it has moved to " : "",
                       g && g->state == FYD_G_MOVED ? g->moved_to : "");
    fy_close(&fd);
}

bool fyd_defs_reply(struct fyd_client *c, const char *name, bool last)
{
    bool any = false;
    for (struct fyd_def *def = c->d->defs; def; def = def->next) {
        if (def->gone || (*name && strcmp(name, def->def.name) != 0) ||
            fyd_guest_by_name(c->d, def->def.name))
            continue;
        Ferry__ApiReply r = FERRY__API_REPLY__INIT;
        Ferry__ApiGuest a = FERRY__API_GUEST__INIT;
        a.name = def->def.name;
        a.state = (char *)(uintptr_t) "defined";
        a.exit_status = -1;
        a.moved_to = def->moved_to;
        a.defined = true;
        a.autostart = fyd_def_autostart(def);
        a.restart = (char *)(uintptr_t)fyd_def_restart(def);
        r.kind_case = FERRY__API_REPLY__KIND_GUEST;
        r.guest = &a;
        r.last = last;
        fyd_reply(c, &r, NULL, 0);
        any = true;
    }
    return any;
}
