// SPDX-License-Identifier: Apache-2.0
/* Jobs and their worker processes: start, end, and what the end means. */
#include "hv/host/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/hex.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"
#include "hv/host/console.h"
#include "hv/host/handjob.h"
#include "hv/host/spawn.h"

#define PROOF_MS 15000
#define CANCEL_MS 15000
#define KEEP_JOBS 200

struct fyd_job *fyd_job_find(struct fyd *d, const uint8_t id[FYD_ID_LEN])
{
    for (struct fyd_job *j = d->jobs; j; j = j->next)
        if (!memcmp(j->id, id, FYD_ID_LEN))
            return j;
    return NULL;
}

bool fyd_job_listed(const struct fyd_job *j)
{
    return j->kind == FERRY__JOB_KIND__JOB_SEND ||
           (j->kind == FERRY__JOB_KIND__JOB_RECEIVE && *j->guest_name);
}

/* A prefix of an ID is enough while it is the only one. */
struct fyd_job *fyd_job_by_text(struct fyd *d, const char *text, struct fy_err *e)
{
    struct fyd_job *found = NULL;
    size_t n = strlen(text);
    for (struct fyd_job *j = d->jobs; j && n; j = j->next) {
        if (!fyd_job_listed(j) || strncmp(j->id_text, text, n) != 0)
            continue;
        if (found) {
            fy_fail(e, FY_EUSAGE, "more than one job begins with %s (give more digits)", text);
            return NULL;
        }
        found = j;
    }
    if (!found)
        fy_fail(e, FY_ENOTFOUND, "no job %s (`vmctl job list` shows them)", text);
    return found;
}

struct fyd_job *fyd_job_new(struct fyd *d, Ferry__JobKind kind, const uint8_t id[FYD_ID_LEN])
{
    struct fyd_job *j = calloc(1, sizeof *j);
    if (!j)
        return NULL;
    j->d = d;
    j->kind = kind;
    j->pidfd = -1;
    j->console_fd = -1;
    memcpy(j->id, id, FYD_ID_LEN);
    fy_hex(id, FYD_ID_LEN, j->id_text);
    fyd_copy(j->state, sizeof j->state, "running");
    j->started_ns = fy_now_ns();
    j->started_real = fy_realtime_ns();
    j->next = d->jobs;
    d->jobs = j;
    return j;
}

static void prove(struct fyd_job *j)
{
    if (j->counted)
        j->d->unproved--;
    j->counted = false;
    j->proved = true;
}

static void free_job(struct fyd_job *j)
{
    for (struct fyd_job **p = &j->d->jobs; *p; p = &(*p)->next)
        if (*p == j) {
            *p = j->next;
            break;
        }
    prove(j);
    if (j->guest && j->guest->job == j)
        j->guest->job = NULL;
    for (struct fyd_ho *h = j->d->handovers; h; h = h->next) {
        if (h->job == j)
            h->job = NULL;
        if (h->asker == j)
            h->asker = NULL;
        if (h->answer_to == j)
            h->answer_to = NULL;
    }
    for (struct fyd_client *c = j->d->clients; c; c = c->next)
        if (c->job == j)
            c->job = NULL;
    fyd_chan_free(j->chan);
    fy_watch_free(j->pid_watch);
    fy_watch_free(j->timer);
    fy_close(&j->pidfd);
    fy_close(&j->console_fd);
    if (j->progress)
        ferry__job_progress__free_unpacked(j->progress, NULL);
    if (j->report)
        ferry__job_report__free_unpacked(j->report, NULL);
    if (j->worker_report)
        ferry__job_report__free_unpacked(j->worker_report, NULL);
    free(j);
}

void fyd_job_remove(struct fyd_job *j)
{
    if (fyd_job_listed(j)) {
        fyd_inv_del_job(j->d->inv, j->id, NULL, NULL);
        fyd_changed_job(j, true);
    }
    free_job(j);
}

void fyd_jobs_free_all(struct fyd *d)
{
    while (d->jobs)
        free_job(d->jobs);
}

void fyd_job_kill(struct fyd_job *j)
{
    if (!j->worker_ended)
        fyd_kill(j->pidfd);
}

static void prune(void *arg)
{
    struct fyd *d = arg;
    unsigned n = 0;
    struct fyd_job *next;
    for (struct fyd_job *j = d->jobs; j; j = next) {
        next = j->next;
        if (fyd_job_listed(j) && j->finished && ++n > KEEP_JOBS)
            fyd_job_remove(j);
    }
}

void fyd_job_persist(struct fyd_job *j)
{
    struct inv_job row = {.started_ns = j->started_real};
    memcpy(row.id, j->id, FYD_ID_LEN);
    fyd_copy(row.guest, sizeof row.guest, j->guest_name);
    fyd_copy(row.kind, sizeof row.kind, j->kind == FERRY__JOB_KIND__JOB_SEND ? "send" : "receive");
    fyd_copy(row.peer, sizeof row.peer, j->peer);
    fyd_copy(row.state, sizeof row.state, j->state);
    if (j->report) {
        row.report_len = ferry__job_report__get_packed_size(j->report);
        row.report = malloc(row.report_len ? row.report_len : 1);
        if (row.report)
            ferry__job_report__pack(j->report, row.report);
        else
            row.report_len = 0;
    }
    fyd_inv_put_job(j->d->inv, &row, NULL, NULL);
    free(row.report);
}

void fyd_job_load(struct fyd *d, const struct inv_job *row)
{
    bool send = !strcmp(row->kind, "send");
    struct fyd_job *j =
        fyd_job_new(d, send ? FERRY__JOB_KIND__JOB_SEND : FERRY__JOB_KIND__JOB_RECEIVE, row->id);
    if (!j)
        return;
    fyd_copy(j->guest_name, sizeof j->guest_name, row->guest);
    fyd_copy(j->peer, sizeof j->peer, row->peer);
    fyd_copy(j->state, sizeof j->state, row->state);
    j->started_real = row->started_ns;
    j->worker_ended = true;
    /* One that was under way is settled when its hand-over is known to be (fyd_jobs_resume). */
    j->finished = strcmp(j->state, "running") != 0 && strcmp(j->state, "uncertain") != 0;
    j->restarted = !j->finished;
    if (row->report_len)
        j->report = ferry__job_report__unpack(NULL, row->report_len, row->report);
}

void fyd_jobs_resume(struct fyd *d)
{
    for (struct fyd_job *j = d->jobs; j; j = j->next) {
        if (j->finished)
            continue;
        struct fyd_ho *h = fyd_ho_find(d, j->id);
        j->ho = h;
        if (h) {
            h->job = j;
            if (h->guest && h->m.step != FY_HS_END) {
                j->guest = h->guest;
                h->guest->job = j;
            }
        }
        fyd_job_settle(j);
    }
}

static Ferry__JobReport *new_report(const char *state, int code, const char *text)
{
    Ferry__JobReport r = FERRY__JOB_REPORT__INIT;
    r.state = (char *)(uintptr_t)state;
    r.code = (uint32_t)code;
    r.error = (char *)(uintptr_t)text;
    size_t len = ferry__job_report__get_packed_size(&r);
    uint8_t *buf = malloc(len ? len : 1);
    if (!buf)
        return NULL;
    ferry__job_report__pack(&r, buf);
    Ferry__JobReport *copy = ferry__job_report__unpack(NULL, len, buf);
    free(buf);
    return copy;
}

static void set_text(char **field, const char *text)
{
    if (*field != protobuf_c_empty_string)
        free(*field);
    char *copy = strdup(text);
    *field = copy ? copy : (char *)(uintptr_t)protobuf_c_empty_string;
}

void fyd_job_fail(struct fyd_job *j, const char *state, int code, const char *text)
{
    if (j->finished)
        return;
    if (!j->report)
        j->report = new_report(state, code, text);
    fyd_copy(j->state, sizeof j->state, state);
    if (j->report) {
        set_text(&j->report->state, state);
        set_text(&j->report->error, text);
        j->report->code = (uint32_t)code;
        if (!*j->report->peer_host)
            set_text(&j->report->peer_host, j->peer);
    }
    j->finished = true;
    if (j->guest && j->guest->job == j)
        j->guest->job = NULL;
    fyd_moves_look(j->d);
    if (!fyd_job_listed(j))
        return;
    fy_info("job %.8s (%s %s, %s): %s%s%s", j->id_text,
            j->kind == FERRY__JOB_KIND__JOB_SEND ? "send" : "receive", j->guest_name, j->peer, state,
            *text ? ": " : "", text);
    fyd_job_persist(j);
    fyd_changed_job(j, false);
    if (j->guest)
        fyd_changed_guest(j->guest, false);
    fyd_job_tell(j);
}

/* The worker has ended and the hand-over, if there was one, is settled: what became of it all? */
static void finish_moving(struct fyd_job *j, bool moved)
{
    struct fyd_ho *h = j->ho;
    Ferry__JobReport *r = j->worker_report;
    j->worker_report = NULL;
    j->report = r;
    if (moved) {
        if (r && j->switched_ns)
            r->total_ns = j->switched_ns - j->started_ns;
        fyd_job_fail(j, "completed", 0, "");
        return;
    }
    bool tried = h && h->m.journal != FY_HO_NONE;
    const char *state = r ? r->state : "failed";
    int code = r ? (int)r->code : FY_EFAIL;
    char text[FY_ERR_TEXT] = "the worker process ended without a word; the guest stays where it was";
    if (j->restarted)
        fyd_copy(text, sizeof text, "the daemon ended while it was under way; the guest stays where it was");
    if (r && *r->error)
        fyd_copy(text, sizeof text, r->error);
    if (tried && (!r || !strcmp(state, "uncertain") || !strcmp(state, "completed"))) {
        state = "failed";
        if (h->guest && h->guest->pidfd < 0 && j->kind == FERRY__JOB_KIND__JOB_SEND) {
            code = FY_ECRASHED;
            fyd_copy(text, sizeof text, "the guest's hypervisor was ended during the hand-over");
        } else {
            code = r && r->code && r->code != FY_EUNCERTAIN ? (int)r->code : FY_EFAIL;
            snprintf(text, sizeof text, "the hand-over was taken back: %.200s never ran the guest%s%.600s",
                     j->kind == FERRY__JOB_KIND__JOB_SEND ? j->peer : "this host", r && *r->error ? ": " : "",
                     r ? r->error : "");
        }
    }
    if (j->kind == FERRY__JOB_KIND__JOB_SEND && j->guest && j->guest->state == FYD_G_CRASHED) {
        state = "failed";
        code = FY_ECRASHED;
        snprintf(text, sizeof text, "the guest ended while it was moved: %.700s", j->guest->report);
    }
    if (tried && h->by_hand)
        fyd_copy(text, sizeof text, "an operator resolved the hand-over: the guest runs here");
    if (j->cancel_asked && (!r || code == FY_ECANCELLED)) {
        state = "cancelled";
        code = FY_ECANCELLED;
        if (!r)
            fyd_copy(text, sizeof text, j->cancel_why);
    }
    if (!strcmp(state, "planned")) {
        text[0] = r && code ? text[0] : 0;
    } else if (code == 0) {
        code = FY_EFAIL;
    }
    char copy[32];
    fyd_copy(copy, sizeof copy, state);
    fyd_job_fail(j, copy, code, text);
}

static bool ho_open(const struct fyd_job *j)
{
    return j->ho && j->ho->m.step != FY_HS_IDLE && !j->ho->m.settled;
}

static void free_job_later(void *arg)
{
    fyd_job_remove(arg);
}

void fyd_job_settle(struct fyd_job *j)
{
    if (!j->worker_ended || j->finished || ho_open(j))
        return;
    switch (j->kind) {
    case FERRY__JOB_KIND__JOB_SEND:
        finish_moving(j, j->ho && j->ho->m.settled && j->ho->m.want == FY_HO_DONE);
        break;
    case FERRY__JOB_KIND__JOB_RECEIVE:
        finish_moving(j, j->ho && j->ho->m.settled && j->ho->m.want == FY_HO_RAN);
        break;
    case FERRY__JOB_KIND__JOB_QUERY:
        if (j->query_of && !j->query_answered)
            fyd_ho_peer_answered(j->query_of, 0);
        j->query_of = NULL;
        j->finished = true;
        break;
    case FERRY__JOB_KIND__JOB_CONSOLE:
        fyd_console_over(j);
        j->finished = true;
        break;
    case FERRY__JOB_KIND__JOB_PAIR_JOIN:
        fyd_host_join_over(j);
        j->finished = true;
        break;
    default:
        j->finished = true;
    }
    if (!fyd_job_listed(j))
        fy_loop_post(j->d->loop, free_job_later, j, NULL);
    else
        fy_loop_post(j->d->loop, prune, j->d, NULL);
}

static void worker_gone(struct fyd_job *j)
{
    prove(j);
    fy_watch_free(j->pid_watch);
    j->pid_watch = NULL;
    fy_watch_free(j->timer);
    j->timer = NULL;
    fyd_chan_free(j->chan);
    j->chan = NULL;
    fy_close(&j->pidfd);
    j->worker_ended = true;
    j->call_id = 0;
    if (j->ho)
        fyd_ho_feed(j->ho, FY_HE_W_GONE);
    fyd_job_settle(j);
}

static void on_worker_end(int fd, unsigned ready, void *arg)
{
    (void)ready;
    struct fyd_job *j = arg;
    char how[96];
    bool clean;
    if (!fyd_reap(fd, how, sizeof how, &clean))
        return;
    fyd_chan_drain(j->chan);
    if (!clean || (!j->worker_report && fyd_job_listed(j)))
        fy_info("worker of job %.8s %s", j->id_text, how);
    if (!j->worker_report) {
        char text[256];
        snprintf(text, sizeof text, "the worker process %s", how);
        j->worker_report = fyd_job_listed(j) && !j->ho ? new_report("failed", FY_EFAIL, text) : NULL;
    }
    worker_gone(j);
}

static void on_timer(void *arg)
{
    struct fyd_job *j = arg;
    if (!j->proved)
        fy_info("a peer has not proved itself in %d s: its connection is closed", PROOF_MS / 1000);
    fyd_job_kill(j);
}

static void on_msg(void *arg, const uint8_t *buf, size_t len, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct fyd_job *j = arg;
    Ferry__WorkerOut *out = ferry__worker_out__unpack(NULL, len, buf);
    if (!out) {
        fy_warn("the worker of job %.8s sent a message that cannot be read; it is ended", j->id_text);
        fyd_job_kill(j);
        return;
    }
    if (!j->proved && out->kind_case != FERRY__WORKER_OUT__KIND_REPORT) {
        prove(j);
        if (j->timer)
            fy_timer_disarm(j->timer);
    }
    fyd_job_message(j, out);
    ferry__worker_out__free_unpacked(out, NULL);
}

static void on_closed(void *arg, const struct fy_err *why)
{
    (void)why;
    struct fyd_job *j = arg;
    fyd_chan_free(j->chan);
    j->chan = NULL;
    /* It has nothing left to say: its end is due. Until it is dead its silence proves nothing. */
    if (j->timer)
        fy_timer_arm(j->timer, 500);
}

static int start_worker(struct fyd_job *j, int sock, struct fy_err *e)
{
    char path[PATH_MAX];
    const char *argv[] = {"ferry-migrate", NULL};
    struct fyd_spawn s = {.path = fyd_program(j->d, "ferry-migrate", path),
                          .argv = argv,
                          .fds = {sock},
                          .nfds = 1,
                          .log_fd = -1,
                          .session = true,
                          .die_with_us = true};
    if (fyd_spawn(&s, &j->pid, &j->pidfd, e) < 0)
        return -1;
    j->pid_start = fyd_start_time(j->pid);
    j->pid_watch = fy_watch_fd(j->d->loop, j->pidfd, FY_READ, on_worker_end, j, e);
    j->timer = fy_timer_new(j->d->loop, on_timer, j, e);
    return j->pid_watch && j->timer ? 0 : -1;
}

int fyd_job_spawn(struct fyd_job *j, Ferry__JobStart *start, const int *fds, int nfds, struct fy_err *e)
{
    int all[FY_MSG_FDS];
    int pair[2];
    struct fyd_host *self = fyd_host_self(j->d);
    if (!self)
        return fy_fail(e, FY_ESTATE, "this host has no identity yet (run `vmctl host init`)");
    if (fyd_identity(j->d, all, e) < 0)
        return -1;
    for (int i = 0; i < nfds; i++)
        all[2 + i] = fds[i];
    int rc = fy_msg_pair(pair, e);
    if (rc == 0) {
        rc = start_worker(j, pair[1], e);
        close(pair[1]);
        j->chan = fyd_chan_new(j->d->loop, pair[0], on_msg, on_closed, j, e);
        if (!j->chan)
            rc = -1;
    }
    start->kind = j->kind;
    start->job_id = (ProtobufCBinaryData){FYD_ID_LEN, j->id};
    start->local_host = self->row.name;
    if (rc == 0)
        rc = fyd_chan_send(j->chan, &start->base, all, 2 + nfds, e);
    fy_close(&all[0]);
    fy_close(&all[1]);
    if (rc < 0) {
        fyd_job_kill(j);
        return -1;
    }
    bool theirs = j->kind == FERRY__JOB_KIND__JOB_RECEIVE || j->kind == FERRY__JOB_KIND__JOB_ANSWER ||
                  j->kind == FERRY__JOB_KIND__JOB_PAIR_ACCEPT ||
                  j->kind == FERRY__JOB_KIND__JOB_CONSOLE_SERVE;
    bool brief = theirs || j->kind == FERRY__JOB_KIND__JOB_QUERY ||
                 j->kind == FERRY__JOB_KIND__JOB_PAIR_JOIN || j->kind == FERRY__JOB_KIND__JOB_CONSOLE;
    if (theirs) {
        j->counted = true;
        j->d->unproved++;
    }
    if (brief)
        fy_timer_arm(j->timer, j->kind == FERRY__JOB_KIND__JOB_QUERY ? 3000 : PROOF_MS);
    else
        j->proved = true;
    return 0;
}

void fyd_job_answer(struct fyd_job *j, const struct fy_err *err, Ferry__WorkerIn *in, const int *fds,
                    int nfds)
{
    Ferry__WorkerIn none = FERRY__WORKER_IN__INIT;
    struct fy_err e;
    if (!in)
        in = &none;
    if (!j->call_id || !j->chan)
        return;
    in->id = j->call_id;
    j->call_id = 0;
    if (err) {
        in->code = (uint32_t)err->code;
        in->text = (char *)(uintptr_t)err->text;
    }
    if (fyd_chan_send(j->chan, &in->base, fds, nfds, &e) < 0)
        fy_warn("job %.8s: %s", j->id_text, e.text);
}

void fyd_job_cancel(struct fyd_job *j, const char *why)
{
    Ferry__CancelJob cancel = FERRY__CANCEL_JOB__INIT;
    Ferry__WorkerIn in = FERRY__WORKER_IN__INIT;
    j->cancel_asked = true;
    fyd_copy(j->cancel_why, sizeof j->cancel_why, why);
    cancel.why = j->cancel_why;
    in.kind_case = FERRY__WORKER_IN__KIND_CANCEL;
    in.cancel = &cancel;
    if (j->chan)
        fyd_chan_send(j->chan, &in.base, NULL, 0, NULL);
    /* A worker that does not obey is ended: short of the switch that is as good. */
    if (j->timer)
        fy_timer_arm(j->timer, CANCEL_MS);
}

int fyd_job_set(struct fyd_job *j, const Ferry__SetJob *set, struct fy_err *e)
{
    Ferry__WorkerIn in = FERRY__WORKER_IN__INIT;
    in.kind_case = FERRY__WORKER_IN__KIND_SET;
    in.set = (Ferry__SetJob *)(uintptr_t)set;
    if (j->finished || !j->chan)
        return fy_fail(e, FY_ESTATE, "the job is over");
    return fyd_chan_send(j->chan, &in.base, NULL, 0, e);
}

int fyd_job_channel(struct fyd_job *j, unsigned channel, int sock, struct fy_err *e)
{
    Ferry__WorkerIn in = FERRY__WORKER_IN__INIT;
    Ferry__PeerChannel pc = FERRY__PEER_CHANNEL__INIT;
    pc.channel = channel;
    in.kind_case = FERRY__WORKER_IN__KIND_CHANNEL;
    in.channel = &pc;
    return fyd_chan_send(j->chan, &in.base, &sock, 1, e);
}

void fyd_job_uncertain(struct fyd_job *j)
{
    if (j->finished || !j->worker_ended || !j->ho || j->ho->asked < 2)
        return;
    bool first = strcmp(j->state, "uncertain") != 0;
    fyd_copy(j->state, sizeof j->state, "uncertain");
    if (first) {
        fyd_job_persist(j);
        fyd_changed_job(j, false);
    }
    fyd_job_tell(j);
}
