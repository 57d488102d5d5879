// SPDX-License-Identifier: Apache-2.0
/* What ferryd must remember over its own death: guests, hosts, jobs and the hand-over journal, in one SQLite
 * file (WAL, synchronous FULL). The daemon's memory is the truth while it runs; this file is read once at
 * start and written behind it, each write durable before its callback. Writes run on a thread of their own,
 * in order; callbacks come on the loop's thread. A full disk fails the write with FY_ERESOURCE and leaves the
 * file as it was. */
#ifndef FERRY_HOST_INVENTORY_H
#define FERRY_HOST_INVENTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/base/loop.h"

#define FYD_NAME_MAX 64
#define FYD_ADDRESS_MAX 256
#define FYD_REPORT_MAX 2048
#define FYD_ID_LEN 16

struct inv_guest {
    uint8_t uuid[FYD_ID_LEN]; /* the key */
    char name[FYD_NAME_MAX];
    uint8_t run_id[FYD_ID_LEN];
    uint32_t pid;
    uint32_t state; /* enum fyd_gstate of hv/host/guests.h: stable numbers */
    int32_t exit_status;
    char report[FYD_REPORT_MAX];
    char moved_to[FYD_NAME_MAX];
    uint8_t handover[FYD_ID_LEN]; /* the hand-over that brought or takes it; zero: none */
    uint64_t changed_ns;          /* CLOCK_REALTIME */
};

struct inv_host {
    char name[FYD_NAME_MAX]; /* the key */
    char address[FYD_ADDRESS_MAX];
    uint8_t sha256[32]; /* of the certificate's DER form */
    bool self;
};

struct inv_job {
    uint8_t id[FYD_ID_LEN]; /* the key */
    char guest[FYD_NAME_MAX];
    char kind[16];
    char peer[FYD_NAME_MAX];
    char state[16];
    uint64_t started_ns; /* CLOCK_REALTIME */
    uint8_t *report;     /* packed JobReport; borrowed for a put, owned in a dump */
    size_t report_len;
};

struct inv_handover {
    uint8_t id[FYD_ID_LEN]; /* the key */
    uint32_t state;         /* enum fy_ho_state of hv/host/handover.h: stable numbers */
    uint8_t uuid[FYD_ID_LEN];
    char guest[FYD_NAME_MAX];
    char peer[FYD_NAME_MAX];
    char boot_id[40];
    uint32_t worker_pid;   /* of the worker that had it, to be ended before a restarted daemon decides */
    uint64_t worker_start; /* its start time in clock ticks since boot (proc(5) stat field 22) */
    uint64_t changed_ns;
};

struct inv_def {
    char name[FYD_NAME_MAX]; /* the key */
    char *yaml;              /* borrowed for a put, owned in a dump */
    uint8_t run[FYD_ID_LEN]; /* UUID of the guest that was started from it last; zero: it has ended here */
    char moved_to[FYD_NAME_MAX];
    uint64_t changed_ns; /* CLOCK_REALTIME */
};

struct inv_dump {
    struct inv_guest *guests;
    size_t guest_count;
    struct inv_host *hosts;
    size_t host_count;
    struct inv_job *jobs;
    size_t job_count;
    struct inv_handover *handovers;
    size_t handover_count;
    struct inv_def *defs;
    size_t def_count;
};

struct fyd_inv;

/* err: NULL when the write is durable. */
typedef void (*fyd_inv_cb)(void *arg, const struct fy_err *err);

/* Open or create `path`, read it whole into *dump (free with fyd_inv_dump_free), start the thread. Blocks. */
struct fyd_inv *fyd_inv_open(struct fy_loop *loop, const char *path, struct inv_dump *dump, struct fy_err *e);
void fyd_inv_dump_free(struct inv_dump *dump);

/* Finish the queued writes, stop the thread, close. Callbacks of unfinished writes do not come. */
void fyd_inv_close(struct fyd_inv *inv);

/* Insert or replace one row, or delete one. The values are copied. cb may be NULL; it never runs before these
 * return. */
void fyd_inv_put_guest(struct fyd_inv *inv, const struct inv_guest *g, fyd_inv_cb cb, void *arg);
void fyd_inv_del_guest(struct fyd_inv *inv, const uint8_t uuid[FYD_ID_LEN], fyd_inv_cb cb, void *arg);
void fyd_inv_put_host(struct fyd_inv *inv, const struct inv_host *h, fyd_inv_cb cb, void *arg);
void fyd_inv_del_host(struct fyd_inv *inv, const char *name, fyd_inv_cb cb, void *arg);
void fyd_inv_put_job(struct fyd_inv *inv, const struct inv_job *j, fyd_inv_cb cb, void *arg);
void fyd_inv_del_job(struct fyd_inv *inv, const uint8_t id[FYD_ID_LEN], fyd_inv_cb cb, void *arg);
void fyd_inv_put_handover(struct fyd_inv *inv, const struct inv_handover *h, fyd_inv_cb cb, void *arg);
void fyd_inv_del_handover(struct fyd_inv *inv, const uint8_t id[FYD_ID_LEN], fyd_inv_cb cb, void *arg);
void fyd_inv_put_def(struct fyd_inv *inv, const struct inv_def *d, fyd_inv_cb cb, void *arg);
void fyd_inv_del_def(struct fyd_inv *inv, const char *name, fyd_inv_cb cb, void *arg);

#endif
