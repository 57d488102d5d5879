// SPDX-License-Identifier: Apache-2.0
/* The definitions that this daemon keeps: what a guest is started with, when it is started by itself, and
 * whether it may be. ADR 0006. On the loop's thread. */
#ifndef FERRY_HOST_DEFINE_H
#define FERRY_HOST_DEFINE_H

#include "hv/define/define.h"
#include "hv/host/daemon.h"

struct fyd_def {
    struct fyd_def *next;
    struct fyd *d;
    struct fy_def def;
    uint8_t
        run[FYD_ID_LEN]; /* UUID of the guest that it was started as last; zero: that one has ended here */
    char moved_to[FYD_NAME_MAX];  /* where that one went; "": it is, or has ended, here */
    bool unsaved;                 /* its last write has failed or is under way */
    struct fyd_def_write *writes; /* under way */
    bool held;                    /* a callback is using it */
    bool gone;                    /* deleted; freed after the last write */
    struct fy_watch *timer;       /* starts it again after a crash */
    unsigned crashes;             /* in a row */
    uint64_t begun_ns;            /* CLOCK_MONOTONIC: its last start */
};

struct fyd_def *fyd_def_find(struct fyd *d, const char *name);
void fyd_def_load(struct fyd *d, const struct inv_def *row);
void fyd_defs_free_all(struct fyd *d);
/* Write the row, then the readable file. cb may be NULL. */
void fyd_def_persist(struct fyd_def *def, fyd_inv_cb cb, void *arg);
bool fyd_def_autostart(const struct fyd_def *def);
const char *fyd_def_restart(const struct fyd_def *def); /* "no", "on-crash" */

/* Whether a guest of this name may be started here: 0, or FY_EEXISTS or FY_ESTATE with where it is. A name
 * without a definition may. here: an operator's word that it runs nowhere else. */
int fyd_def_may_start(struct fyd *d, const char *name, bool here, struct fy_err *e);
/* A guest of this name is about to be recorded: it is its definition's run from now on. */
void fyd_def_begin(struct fyd_guest *g);
/* Whether that is durable; asked when the guest's own record, written after it, is. */
int fyd_def_begun(struct fyd_guest *g, struct fy_err *e);
/* The guest's state has changed, or its record is about to be removed. Called before either is written. */
void fyd_def_guest_changed(struct fyd_guest *g);
void fyd_def_guest_removed(struct fyd_guest *g);
/* All guests are found or lost: start those that start by themselves. */
void fyd_defs_ready(struct fyd *d);

/* define_api.c */
void fyd_api_define(struct fyd_client *c, const Ferry__ApiDefine *op);
void fyd_api_undefine(struct fyd_client *c, const char *name);
void fyd_api_set(struct fyd_client *c, const Ferry__ApiSet *op);
void fyd_api_export(struct fyd_client *c, const char *name);
void fyd_api_logs(struct fyd_client *c, const Ferry__ApiLogs *op);
/* There is no guest of this name; whether it is defined at least. */
void fyd_reply_no_guest(struct fyd_client *c, const char *name);
/* Definitions that have no guest, as guests in the state "defined"; name "": all. True when there was one. */
bool fyd_defs_reply(struct fyd_client *c, const char *name, bool last);

/* define_start.c */
/* `vmctl start NAME`; sink instead of a client where the daemon starts it by itself. */
void fyd_api_start_defined(struct fyd_client *c, const Ferry__ApiStart *op);
void fyd_def_start(struct fyd_def *def);
/* What this daemon cannot give a guest, -1 with FY_EUNSUPPORTED. */
int fyd_def_supported(const struct fy_def *def, struct fy_err *e);

#endif
