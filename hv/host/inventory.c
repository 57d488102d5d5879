// SPDX-License-Identifier: Apache-2.0
#include "hv/host/inventory.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/log.h"

enum op {
    OP_PUT_GUEST,
    OP_DEL_GUEST,
    OP_PUT_HOST,
    OP_DEL_HOST,
    OP_PUT_JOB,
    OP_DEL_JOB,
    OP_PUT_HO,
    OP_DEL_HO,
    OP_PUT_DEF,
    OP_DEL_DEF,
    OP_COUNT
};

struct req {
    struct req *next;
    enum op op;
    fyd_inv_cb cb;
    void *arg;
    bool failed;
    struct fy_err err;
    union {
        struct inv_guest guest;
        struct inv_host host;
        struct inv_job job;
        struct inv_handover handover;
        struct inv_def def;
    };
};

struct list {
    struct req *head;
    struct req **tail;
};

struct fyd_inv {
    sqlite3 *db;
    sqlite3_stmt *stmt[OP_COUNT];
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct list todo; /* under lock */
    struct list done; /* under lock */
    bool stop;        /* under lock */
    int event;        /* eventfd: done is not empty */
    struct fy_watch *watch;
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS guests(uuid BLOB PRIMARY KEY, name TEXT NOT NULL, run_id BLOB, pid INT, "
    "state INT,"
    " exit_status INT, report TEXT, moved_to TEXT, handover BLOB, changed INT) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS hosts(name TEXT PRIMARY KEY, address TEXT, sha256 BLOB, self INT) WITHOUT "
    "ROWID;"
    "CREATE TABLE IF NOT EXISTS jobs(id BLOB PRIMARY KEY, guest TEXT, kind TEXT, peer TEXT, state TEXT, "
    "started INT,"
    " report BLOB) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS handovers(id BLOB PRIMARY KEY, state INT NOT NULL, uuid BLOB, guest TEXT, "
    "peer TEXT,"
    " boot_id TEXT, worker_pid INT, worker_start INT, changed INT) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS definitions(name TEXT PRIMARY KEY, yaml TEXT NOT NULL, run BLOB, moved_to "
    "TEXT, "
    "changed INT) WITHOUT ROWID;"
    "PRAGMA user_version=1;";

static const char *const statements[] = {
    [OP_PUT_GUEST] = "INSERT OR REPLACE INTO guests VALUES(?,?,?,?,?,?,?,?,?,?)",
    [OP_DEL_GUEST] = "DELETE FROM guests WHERE uuid=?",
    [OP_PUT_HOST] = "INSERT OR REPLACE INTO hosts VALUES(?,?,?,?)",
    [OP_DEL_HOST] = "DELETE FROM hosts WHERE name=?",
    [OP_PUT_JOB] = "INSERT OR REPLACE INTO jobs VALUES(?,?,?,?,?,?,?)",
    [OP_DEL_JOB] = "DELETE FROM jobs WHERE id=?",
    [OP_PUT_HO] = "INSERT OR REPLACE INTO handovers VALUES(?,?,?,?,?,?,?,?,?)",
    [OP_DEL_HO] = "DELETE FROM handovers WHERE id=?",
    [OP_PUT_DEF] = "INSERT OR REPLACE INTO definitions VALUES(?,?,?,?,?)",
    [OP_DEL_DEF] = "DELETE FROM definitions WHERE name=?",
};

static int db_fail(struct fyd_inv *inv, int rc, const char *what, struct fy_err *e)
{
    int code =
        rc == SQLITE_FULL || rc == SQLITE_NOMEM || (rc & 0xff) == SQLITE_IOERR ? FY_ERESOURCE : FY_EFAIL;
    if (rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB)
        code = FY_ECORRUPT;
    return fy_fail(e, code, "%s: %s%s", what, sqlite3_errmsg(inv->db),
                   code == FY_ERESOURCE ? " (free some disk space under the daemon's folder)" : "");
}

static void bind_id(sqlite3_stmt *s, int i, const uint8_t id[FYD_ID_LEN])
{
    sqlite3_bind_blob(s, i, id, FYD_ID_LEN, SQLITE_STATIC);
}

static void bind_text(sqlite3_stmt *s, int i, const char *text)
{
    sqlite3_bind_text(s, i, text, -1, SQLITE_STATIC);
}

static void bind_guest(sqlite3_stmt *s, const struct inv_guest *g)
{
    bind_id(s, 1, g->uuid);
    bind_text(s, 2, g->name);
    bind_id(s, 3, g->run_id);
    sqlite3_bind_int64(s, 4, g->pid);
    sqlite3_bind_int64(s, 5, g->state);
    sqlite3_bind_int64(s, 6, g->exit_status);
    bind_text(s, 7, g->report);
    bind_text(s, 8, g->moved_to);
    bind_id(s, 9, g->handover);
    sqlite3_bind_int64(s, 10, (sqlite3_int64)g->changed_ns);
}

static void bind_handover(sqlite3_stmt *s, const struct inv_handover *h)
{
    bind_id(s, 1, h->id);
    sqlite3_bind_int64(s, 2, h->state);
    bind_id(s, 3, h->uuid);
    bind_text(s, 4, h->guest);
    bind_text(s, 5, h->peer);
    bind_text(s, 6, h->boot_id);
    sqlite3_bind_int64(s, 7, h->worker_pid);
    sqlite3_bind_int64(s, 8, (sqlite3_int64)h->worker_start);
    sqlite3_bind_int64(s, 9, (sqlite3_int64)h->changed_ns);
}

static void bind_req(sqlite3_stmt *s, const struct req *r)
{
    switch (r->op) {
    case OP_PUT_GUEST:
        bind_guest(s, &r->guest);
        break;
    case OP_DEL_GUEST:
        bind_id(s, 1, r->guest.uuid);
        break;
    case OP_PUT_HOST:
        bind_text(s, 1, r->host.name);
        bind_text(s, 2, r->host.address);
        sqlite3_bind_blob(s, 3, r->host.sha256, sizeof r->host.sha256, SQLITE_STATIC);
        sqlite3_bind_int(s, 4, r->host.self);
        break;
    case OP_DEL_HOST:
        bind_text(s, 1, r->host.name);
        break;
    case OP_PUT_JOB:
        bind_id(s, 1, r->job.id);
        bind_text(s, 2, r->job.guest);
        bind_text(s, 3, r->job.kind);
        bind_text(s, 4, r->job.peer);
        bind_text(s, 5, r->job.state);
        sqlite3_bind_int64(s, 6, (sqlite3_int64)r->job.started_ns);
        sqlite3_bind_blob(s, 7, r->job.report, (int)r->job.report_len, SQLITE_STATIC);
        break;
    case OP_DEL_JOB:
        bind_id(s, 1, r->job.id);
        break;
    case OP_PUT_HO:
        bind_handover(s, &r->handover);
        break;
    case OP_DEL_HO:
        bind_id(s, 1, r->handover.id);
        break;
    case OP_PUT_DEF:
        bind_text(s, 1, r->def.name);
        bind_text(s, 2, r->def.yaml);
        bind_id(s, 3, r->def.run);
        bind_text(s, 4, r->def.moved_to);
        sqlite3_bind_int64(s, 5, (sqlite3_int64)r->def.changed_ns);
        break;
    case OP_DEL_DEF:
        bind_text(s, 1, r->def.name);
        break;
    case OP_COUNT:
        break;
    }
}

/* One statement is one transaction: with synchronous FULL the commit is on the disk when step returns. */
static void run_req(struct fyd_inv *inv, struct req *r)
{
    sqlite3_stmt *s = inv->stmt[r->op];
    bind_req(s, r);
    int rc = sqlite3_step(s);
    if (rc != SQLITE_DONE) {
        r->failed = true;
        db_fail(inv, rc, "cannot write the inventory", &r->err);
    }
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
}

static struct req *list_pop(struct list *l)
{
    struct req *r = l->head;
    if (r && !(l->head = r->next))
        l->tail = &l->head;
    return r;
}

static void list_push(struct list *l, struct req *r)
{
    r->next = NULL;
    *l->tail = r;
    l->tail = &r->next;
}

static void *writer(void *arg)
{
    struct fyd_inv *inv = arg;
    pthread_mutex_lock(&inv->lock);
    for (;;) {
        struct req *r = list_pop(&inv->todo);
        if (!r && inv->stop)
            break;
        if (!r) {
            pthread_cond_wait(&inv->wake, &inv->lock);
            continue;
        }
        pthread_mutex_unlock(&inv->lock);
        run_req(inv, r);
        pthread_mutex_lock(&inv->lock);
        list_push(&inv->done, r);
        uint64_t one = 1;
        if (write(inv->event, &one, sizeof one) < 0)
            fy_error("inventory: cannot wake the event loop");
    }
    pthread_mutex_unlock(&inv->lock);
    return NULL;
}

static void free_req(struct req *r)
{
    if (r->op == OP_PUT_JOB)
        free(r->job.report);
    if (r->op == OP_PUT_DEF)
        free(r->def.yaml);
    free(r);
}

static void on_done(int fd, unsigned ready, void *arg)
{
    (void)ready;
    struct fyd_inv *inv = arg;
    uint64_t n;
    if (read(fd, &n, sizeof n) < 0)
        return;
    for (;;) {
        pthread_mutex_lock(&inv->lock);
        struct req *r = list_pop(&inv->done);
        pthread_mutex_unlock(&inv->lock);
        if (!r)
            return;
        if (r->failed)
            fy_warn("%s", r->err.text);
        if (r->cb)
            r->cb(r->arg, r->failed ? &r->err : NULL);
        free_req(r);
    }
}

static void copy_id(sqlite3_stmt *s, int col, uint8_t *out, int len)
{
    memset(out, 0, (size_t)len);
    if (sqlite3_column_bytes(s, col) == len)
        memcpy(out, sqlite3_column_blob(s, col), (size_t)len);
}

static void copy_text(sqlite3_stmt *s, int col, char *out, size_t room)
{
    const char *t = (const char *)sqlite3_column_text(s, col);
    size_t n = t ? strlen(t) : 0;
    if (n >= room)
        n = room - 1;
    if (n)
        memcpy(out, t, n);
    out[n] = 0;
}

static void read_guest(sqlite3_stmt *s, void *row)
{
    struct inv_guest *g = row;
    copy_id(s, 0, g->uuid, FYD_ID_LEN);
    copy_text(s, 1, g->name, sizeof g->name);
    copy_id(s, 2, g->run_id, FYD_ID_LEN);
    g->pid = (uint32_t)sqlite3_column_int64(s, 3);
    g->state = (uint32_t)sqlite3_column_int64(s, 4);
    g->exit_status = sqlite3_column_int(s, 5);
    copy_text(s, 6, g->report, sizeof g->report);
    copy_text(s, 7, g->moved_to, sizeof g->moved_to);
    copy_id(s, 8, g->handover, FYD_ID_LEN);
    g->changed_ns = (uint64_t)sqlite3_column_int64(s, 9);
}

static void read_host(sqlite3_stmt *s, void *row)
{
    struct inv_host *h = row;
    copy_text(s, 0, h->name, sizeof h->name);
    copy_text(s, 1, h->address, sizeof h->address);
    copy_id(s, 2, h->sha256, sizeof h->sha256);
    h->self = sqlite3_column_int(s, 3) != 0;
}

static void read_job(sqlite3_stmt *s, void *row)
{
    struct inv_job *j = row;
    copy_id(s, 0, j->id, FYD_ID_LEN);
    copy_text(s, 1, j->guest, sizeof j->guest);
    copy_text(s, 2, j->kind, sizeof j->kind);
    copy_text(s, 3, j->peer, sizeof j->peer);
    copy_text(s, 4, j->state, sizeof j->state);
    j->started_ns = (uint64_t)sqlite3_column_int64(s, 5);
    size_t n = (size_t)sqlite3_column_bytes(s, 6);
    j->report = n ? malloc(n) : NULL;
    if (j->report) {
        memcpy(j->report, sqlite3_column_blob(s, 6), n);
        j->report_len = n;
    }
}

static void read_handover(sqlite3_stmt *s, void *row)
{
    struct inv_handover *h = row;
    copy_id(s, 0, h->id, FYD_ID_LEN);
    h->state = (uint32_t)sqlite3_column_int64(s, 1);
    copy_id(s, 2, h->uuid, FYD_ID_LEN);
    copy_text(s, 3, h->guest, sizeof h->guest);
    copy_text(s, 4, h->peer, sizeof h->peer);
    copy_text(s, 5, h->boot_id, sizeof h->boot_id);
    h->worker_pid = (uint32_t)sqlite3_column_int64(s, 6);
    h->worker_start = (uint64_t)sqlite3_column_int64(s, 7);
    h->changed_ns = (uint64_t)sqlite3_column_int64(s, 8);
}

static void read_def(sqlite3_stmt *s, void *row)
{
    struct inv_def *d = row;
    const char *yaml = (const char *)sqlite3_column_text(s, 1);
    copy_text(s, 0, d->name, sizeof d->name);
    d->yaml = yaml ? strdup(yaml) : NULL;
    copy_id(s, 2, d->run, FYD_ID_LEN);
    copy_text(s, 3, d->moved_to, sizeof d->moved_to);
    d->changed_ns = (uint64_t)sqlite3_column_int64(s, 4);
}

/* Read all rows of a query into a grown array of `size`-byte structs. */
static int read_table(struct fyd_inv *inv, const char *sql, size_t size, void (*row)(sqlite3_stmt *, void *),
                      void **out, size_t *count, struct fy_err *e)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(inv->db, sql, -1, &s, NULL);
    size_t room = 0;
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc != SQLITE_ROW)
            break;
        if (*count == room) {
            room = room ? room * 2 : 16;
            void *p = realloc(*out, room * size);
            if (!p) {
                rc = SQLITE_NOMEM;
                break;
            }
            *out = p;
        }
        char *slot = (char *)*out + *count * size;
        memset(slot, 0, size);
        row(s, slot);
        (*count)++;
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? 0 : db_fail(inv, rc, "cannot read the inventory", e);
}

static int read_all(struct fyd_inv *inv, struct inv_dump *d, struct fy_err *e)
{
    memset(d, 0, sizeof *d);
    if (read_table(inv, "SELECT * FROM guests", sizeof *d->guests, read_guest, (void **)&d->guests,
                   &d->guest_count, e) < 0 ||
        read_table(inv, "SELECT * FROM hosts", sizeof *d->hosts, read_host, (void **)&d->hosts,
                   &d->host_count, e) < 0 ||
        read_table(inv, "SELECT * FROM jobs ORDER BY started", sizeof *d->jobs, read_job, (void **)&d->jobs,
                   &d->job_count, e) < 0 ||
        read_table(inv, "SELECT * FROM handovers", sizeof *d->handovers, read_handover,
                   (void **)&d->handovers, &d->handover_count, e) < 0 ||
        read_table(inv, "SELECT * FROM definitions", sizeof *d->defs, read_def, (void **)&d->defs,
                   &d->def_count, e) < 0) {
        fyd_inv_dump_free(d);
        return -1;
    }
    return 0;
}

void fyd_inv_dump_free(struct inv_dump *d)
{
    free(d->guests);
    free(d->hosts);
    for (size_t i = 0; i < d->job_count; i++)
        free(d->jobs[i].report);
    free(d->jobs);
    free(d->handovers);
    for (size_t i = 0; i < d->def_count; i++)
        free(d->defs[i].yaml);
    free(d->defs);
    memset(d, 0, sizeof *d);
}

static int set_up(struct fyd_inv *inv, const char *path, struct fy_err *e)
{
    int rc = sqlite3_open_v2(path, &inv->db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(inv->db,
                          "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=2000;", NULL,
                          NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(inv->db, schema, NULL, NULL, NULL);
    for (int i = 0; rc == SQLITE_OK && i < OP_COUNT; i++)
        rc = sqlite3_prepare_v3(inv->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &inv->stmt[i], NULL);
    if (rc != SQLITE_OK) {
        db_fail(inv, rc, path, e);
        return fy_fail_prefix(e, "cannot open the inventory");
    }
    return 0;
}

struct fyd_inv *fyd_inv_open(struct fy_loop *loop, const char *path, struct inv_dump *dump, struct fy_err *e)
{
    memset(dump, 0, sizeof *dump);
    struct fyd_inv *inv = calloc(1, sizeof *inv);
    if (!inv) {
        fy_fail(e, FY_ERESOURCE, "no memory for the inventory");
        return NULL;
    }
    pthread_mutex_init(&inv->lock, NULL);
    pthread_cond_init(&inv->wake, NULL);
    inv->todo.tail = &inv->todo.head;
    inv->done.tail = &inv->done.head;
    inv->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (inv->event < 0)
        fy_fail(e, FY_ERESOURCE, "no descriptor left for the inventory");
    if (inv->event < 0 || set_up(inv, path, e) < 0 || read_all(inv, dump, e) < 0)
        goto fail;
    if (loop && !(inv->watch = fy_watch_fd(loop, inv->event, FY_READ, on_done, inv, e)))
        goto fail;
    if (pthread_create(&inv->thread, NULL, writer, inv) != 0) {
        fy_fail(e, FY_ERESOURCE, "cannot start the inventory's thread");
        goto fail;
    }
    inv->started = true;
    return inv;
fail:
    fyd_inv_dump_free(dump);
    fyd_inv_close(inv);
    return NULL;
}

void fyd_inv_close(struct fyd_inv *inv)
{
    if (!inv)
        return;
    if (inv->started) {
        pthread_mutex_lock(&inv->lock);
        inv->stop = true;
        pthread_cond_signal(&inv->wake);
        pthread_mutex_unlock(&inv->lock);
        pthread_join(inv->thread, NULL);
    }
    struct req *r;
    while ((r = list_pop(&inv->done)) != NULL)
        free_req(r);
    fy_watch_free(inv->watch);
    for (int i = 0; i < OP_COUNT; i++)
        sqlite3_finalize(inv->stmt[i]);
    sqlite3_close(inv->db);
    fy_close(&inv->event);
    pthread_cond_destroy(&inv->wake);
    pthread_mutex_destroy(&inv->lock);
    free(inv);
}

static struct req *new_req(enum op op, fyd_inv_cb cb, void *arg)
{
    struct req *r = calloc(1, sizeof *r);
    if (!r) {
        /* A daemon that cannot remember must not go on as if it had. */
        fy_error("no memory for a write of the inventory: it is lost");
        return NULL;
    }
    r->op = op;
    r->cb = cb;
    r->arg = arg;
    return r;
}

static void submit(struct fyd_inv *inv, struct req *r)
{
    pthread_mutex_lock(&inv->lock);
    list_push(&inv->todo, r);
    pthread_cond_signal(&inv->wake);
    pthread_mutex_unlock(&inv->lock);
}

void fyd_inv_put_guest(struct fyd_inv *inv, const struct inv_guest *g, fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_PUT_GUEST, cb, arg);
    if (!r)
        return;
    r->guest = *g;
    submit(inv, r);
}

void fyd_inv_del_guest(struct fyd_inv *inv, const uint8_t uuid[FYD_ID_LEN], fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_DEL_GUEST, cb, arg);
    if (!r)
        return;
    memcpy(r->guest.uuid, uuid, FYD_ID_LEN);
    submit(inv, r);
}

void fyd_inv_put_host(struct fyd_inv *inv, const struct inv_host *h, fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_PUT_HOST, cb, arg);
    if (!r)
        return;
    r->host = *h;
    submit(inv, r);
}

void fyd_inv_del_host(struct fyd_inv *inv, const char *name, fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_DEL_HOST, cb, arg);
    if (!r)
        return;
    strncpy(r->host.name, name, sizeof r->host.name - 1);
    submit(inv, r);
}

void fyd_inv_put_job(struct fyd_inv *inv, const struct inv_job *j, fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_PUT_JOB, cb, arg);
    if (!r)
        return;
    r->job = *j;
    r->job.report = NULL;
    r->job.report_len = 0;
    if (j->report_len && (r->job.report = malloc(j->report_len)) != NULL) {
        memcpy(r->job.report, j->report, j->report_len);
        r->job.report_len = j->report_len;
    }
    submit(inv, r);
}

void fyd_inv_del_job(struct fyd_inv *inv, const uint8_t id[FYD_ID_LEN], fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_DEL_JOB, cb, arg);
    if (!r)
        return;
    memcpy(r->job.id, id, FYD_ID_LEN);
    submit(inv, r);
}

void fyd_inv_put_handover(struct fyd_inv *inv, const struct inv_handover *h, fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_PUT_HO, cb, arg);
    if (!r)
        return;
    r->handover = *h;
    submit(inv, r);
}

void fyd_inv_del_handover(struct fyd_inv *inv, const uint8_t id[FYD_ID_LEN], fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_DEL_HO, cb, arg);
    if (!r)
        return;
    memcpy(r->handover.id, id, FYD_ID_LEN);
    submit(inv, r);
}

void fyd_inv_put_def(struct fyd_inv *inv, const struct inv_def *d, fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_PUT_DEF, cb, arg);
    if (!r)
        return;
    r->def = *d;
    r->def.yaml = strdup(d->yaml);
    submit(inv, r);
}

void fyd_inv_del_def(struct fyd_inv *inv, const char *name, fyd_inv_cb cb, void *arg)
{
    struct req *r = new_req(OP_DEL_DEF, cb, arg);
    if (!r)
        return;
    strncpy(r->def.name, name, sizeof r->def.name - 1);
    submit(inv, r);
}
