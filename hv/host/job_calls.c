// SPDX-License-Identifier: Apache-2.0
/* What workers say and ask. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/host/console.h"
#include "hv/host/disks.h"
#include "hv/host/firmware.h"
#include "hv/host/handjob.h"
#include "hv/host/jobs.h"
#include "hv/host/net.h"
#include "hv/host/promise.h"
#include "proto/wire.h"

static void refuse(struct fyd_job *j, int code, const char *text)
{
    struct fy_err e;
    fy_fail(&e, code, "%s", text);
    fyd_job_answer(j, &e, NULL, NULL, 0);
}

/* A deep copy, through the bytes. */
static void *copy_message(const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *buf = malloc(len ? len : 1);
    if (!buf)
        return NULL;
    protobuf_c_message_pack(m, buf);
    void *copy = protobuf_c_message_unpack(m->descriptor, NULL, len, buf);
    free(buf);
    return copy;
}

static bool own_id(const struct fyd_job *j, const ProtobufCBinaryData *id)
{
    return id->len == FYD_ID_LEN && !memcmp(id->data, j->id, FYD_ID_LEN);
}

static void handing_over(struct fyd_job *j, const Ferry__HandingOver *h)
{
    if (j->kind != FERRY__JOB_KIND__JOB_SEND || !j->guest || !own_id(j, &h->handover_id)) {
        refuse(j, FY_EFAIL, "the worker asks for a hand-over that is not its own");
        return;
    }
    if (j->guest->state != FYD_G_RUNNING && j->guest->state != FYD_G_PAUSED) {
        refuse(j, FY_ESTATE, "the guest has ended");
        return;
    }
    struct fyd_ho *ho = fyd_ho_find(j->d, j->id);
    if (ho || !(ho = fyd_ho_new(j->d, j->id, true))) {
        refuse(j, FY_ESTATE, "this hand-over was begun before");
        return;
    }
    ho->guest = j->guest;
    ho->job = j;
    j->ho = ho;
    memcpy(ho->uuid, j->guest->uuid, FYD_ID_LEN);
    memcpy(j->guest->handover, j->id, FYD_ID_LEN);
    fyd_copy(ho->guest_name, sizeof ho->guest_name, j->guest->name);
    fyd_copy(ho->peer, sizeof ho->peer, j->peer);
    ho->worker_pid = (uint32_t)j->pid;
    ho->worker_start = j->pid_start;
    fyd_guest_set_state(j->guest, FYD_G_HANDING);
    fyd_ho_feed(ho, FY_HE_ASK_HANDING);
}

static void handed_over(struct fyd_job *j)
{
    if (!j->ho || !j->ho->source) {
        refuse(j, FY_ESTATE, "no hand-over was begun");
        return;
    }
    j->switched_ns = fy_now_ns();
    fyd_ho_feed(j->ho, FY_HE_HANDED_OVER);
}

struct create {
    struct fyd *d;
    uint8_t job_id[FYD_ID_LEN];
    uint64_t call_id;
    bool plan_only;
    Ferry__Machine *machine; /* owned */
    char peer[FYD_NAME_MAX];
    char reasons[FY_ERR_TEXT];
    int code;
    struct fy_watch *timer; /* while a guest that moved away is still ending here */
    unsigned waits;
};

#define ENDING_WAIT_MS 20
#define ENDING_WAITS 250

static void add_reason(struct create *c, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void add_reason(struct create *c, int code, const char *fmt, ...)
{
    size_t n = strlen(c->reasons);
    va_list ap;
    if (n && n + 1 < sizeof c->reasons)
        c->reasons[n++] = '\n';
    va_start(ap, fmt);
    vsnprintf(c->reasons + n, sizeof c->reasons - n, fmt, ap);
    va_end(ap);
    if (!c->code || c->code == FY_ERESOURCE)
        c->code = code;
}

static void check_names(struct create *c)
{
    struct fyd_guest *g = fyd_guest_by_uuid(c->d, c->machine->uuid.data);
    if (g && fyd_guest_active(g))
        add_reason(c, FY_EREFUSED, "a guest with the same UUID is %s here (as %s)", fyd_gstate_name(g->state),
                   g->name);
    struct fyd_guest *named = fyd_guest_by_name(c->d, c->machine->name);
    if (named && named != g && fyd_guest_active(named))
        add_reason(c, FY_EREFUSED, "another guest is named %s here", c->machine->name);
}

static void check_room(struct create *c)
{
    uint64_t have = fyd_memory_available(c->machine->hugepages);
    uint64_t disk = fyd_disk_available(c->d);
    if (c->machine->memory_bytes > have)
        add_reason(c, FY_ERESOURCE, "the guest has %llu MiB of memory, %s %llu MiB are free here",
                   (unsigned long long)(c->machine->memory_bytes >> 20),
                   c->machine->hugepages ? "of 2 MiB pages" : "only", (unsigned long long)(have >> 20));
    struct fy_err e;
    if (fyd_promise_check(c->d, c->machine, &e) < 0)
        add_reason(c, FY_ERESOURCE, "%s", e.text);
    if (disk < FYD_DISK_MARGIN)
        add_reason(c, FY_ERESOURCE,
                   "only %llu KiB of disk space are free under %s (at least %u KiB are needed)",
                   (unsigned long long)(disk >> 10), c->d->root, FYD_DISK_MARGIN >> 10);
}

static void check_nics(struct create *c)
{
    char why[256];
    if (c->machine->n_nics > FYD_NICS_MAX)
        add_reason(c, FY_EREFUSED, "%zu network cards (at most %d here)", c->machine->n_nics, FYD_NICS_MAX);
    for (size_t i = 0; i < c->machine->n_nics && i < FYD_NICS_MAX; i++) {
        fyd_nic_check(c->machine->nics[i], (unsigned)i, false, why, sizeof why);
        if (*why)
            add_reason(c, FY_EREFUSED, "%s", why);
    }
}

static void check_disks(struct create *c)
{
    struct fy_err e;
    for (size_t i = 0; i < c->machine->n_disks && i < FYD_DISKS_MAX; i++)
        if (fyd_disk_look(c->d, c->machine->disks[i], &e) < 0)
            add_reason(c, FY_EREFUSED, "%s", e.text);
}

static void create_free(struct create *c)
{
    fy_watch_free(c->timer);
    if (c->machine)
        ferry__machine__free_unpacked(c->machine, NULL);
    free(c);
}

static int create_guest(struct create *c, struct fyd_job *j, struct fy_err *e)
{
    struct fyd_guest *old = fyd_guest_by_uuid(c->d, c->machine->uuid.data);
    if (old)
        fyd_guest_remove(old);
    old = fyd_guest_by_name(c->d, c->machine->name);
    if (old)
        fyd_guest_remove(old);
    if (fyd_ho_find(c->d, j->id))
        return fy_fail(e, FY_ESTATE, "this hand-over was given up before: it can only be begun anew");
    struct fyd_ho *ho = fyd_ho_new(c->d, j->id, false);
    struct fyd_guest *g =
        ho ? fyd_guest_new(c->d, c->machine->name, c->machine->uuid.data, FYD_G_INCOMING, e) : NULL;
    if (!g)
        return fy_fail(e, FY_ERESOURCE, "no memory for a guest's record");
    g->promised = fyd_promise_of(c->machine);
    g->promised_vcpus = c->machine->vcpus;
    memcpy(g->handover, j->id, FYD_ID_LEN);
    memcpy(ho->uuid, g->uuid, FYD_ID_LEN);
    fyd_copy(ho->guest_name, sizeof ho->guest_name, g->name);
    fyd_copy(ho->peer, sizeof ho->peer, c->peer);
    ho->guest = g;
    ho->job = j;
    ho->worker_pid = (uint32_t)j->pid;
    ho->worker_start = j->pid_start;
    ho->machine = c->machine;
    c->machine = NULL;
    j->ho = ho;
    j->guest = g;
    g->job = j;
    fyd_guest_persist(g, NULL, NULL);
    fyd_job_persist(j);
    fyd_changed_guest(g, false);
    fyd_ho_feed(ho, FY_HE_CREATE);
    return 0;
}

/* ferry-hv has said what it cannot run: now all reasons are together. */
static void checked(void *arg, const char *reasons)
{
    struct create *c = arg;
    struct fyd_job *j = fyd_job_find(c->d, c->job_id);
    struct fy_err e;
    if (*reasons)
        add_reason(c, FY_EREFUSED, "%s", reasons);
    if (!j || j->call_id != c->call_id) {
        create_free(c);
        return;
    }
    if (c->code) {
        Ferry__WorkerIn in = FERRY__WORKER_IN__INIT;
        Ferry__CreateAnswer answer = FERRY__CREATE_ANSWER__INIT;
        char *lines[32];
        char copy[FY_ERR_TEXT];
        char *save = NULL;
        fyd_copy(copy, sizeof copy, c->reasons);
        for (char *l = strtok_r(copy, "\n", &save); l && answer.n_reasons < 32;
             l = strtok_r(NULL, "\n", &save))
            lines[answer.n_reasons++] = l;
        answer.reasons = lines;
        in.kind_case = FERRY__WORKER_IN__KIND_CREATE;
        in.create = &answer;
        fy_fail(&e, c->code, "%s", c->reasons);
        fyd_job_answer(j, &e, &in, NULL, 0);
    } else if (c->plan_only) {
        Ferry__WorkerIn in = FERRY__WORKER_IN__INIT;
        Ferry__CreateAnswer answer = FERRY__CREATE_ANSWER__INIT;
        in.kind_case = FERRY__WORKER_IN__KIND_CREATE;
        in.create = &answer;
        fyd_job_answer(j, NULL, &in, NULL, 0);
    } else {
        /* Others may have come by the same name while ferry-hv looked. */
        check_names(c);
        if (c->code)
            fy_fail(&e, c->code, "%s", c->reasons);
        if (c->code || create_guest(c, j, &e) < 0)
            fyd_job_answer(j, &e, NULL, NULL, 0);
    }
    create_free(c);
}

/* A process of this guest's that is about to end: it moved away, or its coming here was given up. */
static bool ending(const struct create *c, const struct fyd_guest *g)
{
    if (!g || !fyd_guest_active(g))
        return false;
    return g->state == FYD_G_MOVED ||
           (g->state == FYD_G_INCOMING && memcmp(g->handover, c->job_id, FYD_ID_LEN) != 0);
}

/* A guest may come before the process that it left here, or that an earlier try began, has given its memory
 * back: that is awaited, not refused. */
static void create_begin(void *arg)
{
    struct create *c = arg;
    struct fyd_guest *g = fyd_guest_by_uuid(c->d, c->machine->uuid.data);
    if (!fyd_job_find(c->d, c->job_id)) {
        create_free(c);
        return;
    }
    if (ending(c, g) && c->waits++ < ENDING_WAITS) {
        if (!c->timer)
            c->timer = fy_timer_new(c->d->loop, create_begin, c, NULL);
        if (c->timer) {
            fy_timer_arm(c->timer, ENDING_WAIT_MS);
            return;
        }
    }
    check_names(c);
    check_room(c);
    check_nics(c);
    check_disks(c);
    /* The hypervisor looks at its machine before it makes anything, and says all that it lacks: a process of
     * its own for that is needed only where none will be started, or where its reasons must join others. */
    if (c->plan_only || c->code)
        fyd_check_machine(c->d, c->machine, checked, c);
    else
        checked(c, "");
}

/* A guest does not see what runs it: this host's operator may choose, and where there is no KVM there is no
 * choice. */
static int pick_engine(struct create *c)
{
    /* A guest that counts instructions would see another engine. */
    const char *want = c->machine->icount_ns ? c->machine->engine : c->d->engine;
    if (!*want && !strcmp(c->machine->engine, "kvm") && access("/dev/kvm", R_OK | W_OK) < 0)
        want = "soft";
    char *engine = strdup(*want ? want : c->machine->engine);
    if (!engine)
        return -1;
    if (c->machine->engine != protobuf_c_empty_string)
        free(c->machine->engine);
    c->machine->engine = engine;
    return 0;
}

static void create(struct fyd_job *j, const Ferry__CreateIncoming *op)
{
    const Ferry__Machine *m = op->machine;
    if (j->kind != FERRY__JOB_KIND__JOB_RECEIVE || j->ho || !own_id(j, &op->handover_id) || !m ||
        m->uuid.len != FYD_ID_LEN || !fyd_name_ok(m->name) || m->memory_bytes == 0 ||
        m->memory_bytes > FY_MEMORY_MAX || m->memory_bytes % (2u << 20) || m->vcpus == 0 ||
        m->vcpus > FY_VCPUS_MAX || !fyd_memory_file_bytes(m)) {
        refuse(j, FY_ECORRUPT,
               "the peer describes a guest that cannot be (name, UUID, memory size or vCPU count)");
        return;
    }
    struct create *c = calloc(1, sizeof *c);
    if (!c || !(c->machine = copy_message(&m->base))) {
        free(c);
        refuse(j, FY_ERESOURCE, "no memory for an incoming guest");
        return;
    }
    c->d = j->d;
    if (pick_engine(c) < 0) {
        create_free(c);
        refuse(j, FY_ERESOURCE, "no memory for an incoming guest");
        return;
    }
    memcpy(c->job_id, j->id, FYD_ID_LEN);
    c->call_id = j->call_id;
    c->plan_only = op->plan_only;
    fyd_copy(c->peer, sizeof c->peer, op->peer_host);
    fyd_copy(j->peer, sizeof j->peer, op->peer_host);
    fyd_copy(j->guest_name, sizeof j->guest_name, m->name);
    fyd_changed_job(j, false);
    create_begin(c);
}

static void answer_query(struct fyd_job *j, const Ferry__AnswerQuery *q)
{
    if (j->kind != FERRY__JOB_KIND__JOB_ANSWER || q->handover_id.len != FYD_ID_LEN) {
        refuse(j, FY_ECORRUPT, "the peer asks about an ID that is none");
        return;
    }
    struct fyd_ho *h = fyd_ho_find(j->d, q->handover_id.data);
    if (!h) {
        h = fyd_ho_new(j->d, q->handover_id.data, false);
        if (!h) {
            refuse(j, FY_ERESOURCE, "no memory for an answer");
            return;
        }
        fyd_copy(h->peer, sizeof h->peer, q->peer_host);
        fyd_copy(h->guest_name, sizeof h->guest_name, "(none)");
    }
    if (h->source || strcmp(h->peer, q->peer_host) != 0) {
        fyd_job_answer_query(j, 0, FY_EAUTH, "this hand-over is not with the host that asks");
        return;
    }
    if (h->answer_to) {
        fyd_job_answer_query(j, 3, 0, "");
        return;
    }
    h->answer_to = j;
    fyd_ho_feed(h, q->abandon ? FY_HE_ABANDON : FY_HE_QUERY);
}

void fyd_job_answer_query(struct fyd_job *j, unsigned outcome, int code, const char *text)
{
    Ferry__WorkerIn in = FERRY__WORKER_IN__INIT;
    Ferry__QueryResult q = FERRY__QUERY_RESULT__INIT;
    struct fy_err e;
    q.outcome = outcome;
    q.code = (uint32_t)code;
    q.text = (char *)(uintptr_t)text;
    in.kind_case = FERRY__WORKER_IN__KIND_QUERY;
    in.query = &q;
    if (code)
        fy_fail(&e, code, "%s", text);
    fyd_job_answer(j, code ? &e : NULL, &in, NULL, 0);
}

static void query_result(struct fyd_job *j, const Ferry__QueryResult *q)
{
    if (!j->query_of || j->query_answered)
        return;
    j->query_answered = true;
    if (q->code)
        fy_warn("hand-over of %s: %s answers: %s", j->guest_name, j->peer, q->text);
    fyd_ho_peer_answered(j->query_of, q->code ? 0 : q->outcome);
}

static void progress(struct fyd_job *j, const Ferry__JobProgress *p)
{
    Ferry__JobProgress *copy = copy_message(&p->base);
    if (!copy)
        return;
    if (j->progress) {
        /* What people watch never runs backwards, whatever a worker says. */
        copy->fraction = FY_MAX(copy->fraction, j->progress->fraction);
        ferry__job_progress__free_unpacked(j->progress, NULL);
    }
    j->progress = copy;
    if (fyd_job_listed(j))
        fyd_changed_job(j, false);
    fyd_job_tell(j);
}

static void switching(struct fyd_job *j)
{
    if (j->cancel_asked) {
        refuse(j, FY_ECANCELLED, j->cancel_why);
        return;
    }
    j->switching = true;
    fyd_job_answer(j, NULL, NULL, NULL, 0);
}

static void report(struct fyd_job *j, const Ferry__JobReport *r)
{
    if (j->worker_report)
        ferry__job_report__free_unpacked(j->worker_report, NULL);
    j->worker_report = copy_message(&r->base);
}

void fyd_job_message(struct fyd_job *j, const Ferry__WorkerOut *out)
{
    if (out->id) {
        j->call_id = out->id;
        j->call = out->kind_case;
    }
    switch (out->kind_case) {
    case FERRY__WORKER_OUT__KIND_PROGRESS:
        progress(j, out->progress);
        break;
    case FERRY__WORKER_OUT__KIND_REPORT:
        report(j, out->report);
        break;
    case FERRY__WORKER_OUT__KIND_HANDING_OVER:
        handing_over(j, out->handing_over);
        break;
    case FERRY__WORKER_OUT__KIND_HANDED_OVER:
        handed_over(j);
        break;
    case FERRY__WORKER_OUT__KIND_CREATE:
        create(j, out->create);
        break;
    case FERRY__WORKER_OUT__KIND_RUN:
        j->run_paused = out->run->paused;
        if (j->ho && !j->ho->source)
            fyd_ho_feed(j->ho, FY_HE_RUN);
        else
            refuse(j, FY_ESTATE, "nothing was created to run");
        break;
    case FERRY__WORKER_OUT__KIND_ABORT:
        if (j->ho && !j->ho->source)
            fyd_ho_feed(j->ho, FY_HE_ABORT);
        else
            fyd_job_answer(j, NULL, NULL, NULL, 0);
        break;
    case FERRY__WORKER_OUT__KIND_JOIN:
        j->channels = FY_MIN(out->join->channels, FY_CHANNELS_MAX);
        if (out->id)
            fyd_job_answer(j, NULL, NULL, NULL, 0);
        break;
    case FERRY__WORKER_OUT__KIND_ANSWER_QUERY:
        answer_query(j, out->answer_query);
        break;
    case FERRY__WORKER_OUT__KIND_QUERY_RESULT:
        query_result(j, out->query_result);
        if (out->id)
            fyd_job_answer(j, NULL, NULL, NULL, 0);
        break;
    case FERRY__WORKER_OUT__KIND_PAIRED:
        fyd_host_paired(j, out->paired);
        break;
    case FERRY__WORKER_OUT__KIND_OPEN_CONSOLE:
        fyd_console_serve(j, out->open_console);
        break;
    case FERRY__WORKER_OUT__KIND_CONSOLE_OPENED:
        fyd_console_opened(j, out->console_opened);
        break;
    case FERRY__WORKER_OUT__KIND_SWITCHING:
        switching(j);
        break;
    default:
        if (out->id)
            refuse(j, FY_EUNSUPPORTED, "the daemon does not know this call");
        break;
    }
}
