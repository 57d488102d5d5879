// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/control/internal.h"
#include "proto/wire.h"

#define ID_LEN 16

static int take_id(const ProtobufCBinaryData *b, struct fy_err *e)
{
    return b->len == ID_LEN ? 0 : fy_fail(e, FY_EUSAGE, "a hand-over ID has %d bytes", ID_LEN);
}

static void op_hello(struct fy_server *s, struct fy_answer *a)
{
    Ferry__HelloReply *r = &a->u.hello;
    ferry__hello_reply__init(r);
    r->version = (char *)(uintptr_t)FERRY_VERSION;
    r->uuid = fy_machine_desc(s->m)->uuid;
    r->run_id.data = s->run_id;
    r->run_id.len = sizeof s->run_id;
    r->pid = (uint32_t)getpid();
    a->resp.op_case = FERRY__RESPONSE__OP_HELLO;
    a->resp.hello = r;
}

/* As vmctl start takes it. */
static char *engine_name(const Ferry__Machine *d, struct fy_answer *a)
{
    if (!d->icount_ns)
        return d->engine;
    snprintf(a->engine, sizeof a->engine, "%s,icount=%u,seed=%llu", d->engine, d->icount_ns,
             (unsigned long long)d->icount_seed);
    return a->engine;
}

static void op_status(struct fy_server *s, struct fy_answer *a)
{
    Ferry__StatusReply *r = &a->u.status;
    struct fy_machine_times t;
    struct fy_life *l = s->life;
    ferry__status_reply__init(r);
    fy_machine_times(s->m, &t);
    r->state = fy_life_state(l);
    r->running_ns = t.running_ns;
    r->vcpu_cpu_ns = t.vcpu_cpu_ns;
    r->memory_resident = t.resident;
    if (l->has_handover_id) {
        r->handover_id.data = l->handover_id;
        r->handover_id.len = ID_LEN;
    }
    r->report = (char *)(uintptr_t)fy_life_report(l);
    r->exit_status = fy_machine_exit_status(s->m);
    r->ran = t.running_ns > 0;
    r->warning = l->warning;
    r->engine = engine_name(fy_machine_desc(s->m), a);
    r->user_pauses = l->user_paused;
    r->isolation = s->isolation;
    fy_status_nics(s, a, r);
    fy_status_disks(s, a, r);
    a->resp.op_case = FERRY__RESPONSE__OP_STATUS;
    a->resp.status = r;
}

static int op_memory(struct fy_server *s, bool writable, struct fy_answer *a, struct fy_err *e)
{
    struct fy_gmem *g = fy_machine_memory(s->m);
    Ferry__MemoryReply *r = &a->u.memory;
    if (writable && fy_life_state(s->life) != FERRY__GUEST_STATE__GUEST_INCOMING)
        return fy_fail(e, FY_ESTATE, "only an incoming guest's memory may be written from outside");
    ferry__memory_reply__init(r);
    for (unsigned i = 0; i < g->slot_count; i++) {
        ferry__slot_info__init(&a->slots[i]);
        a->slots[i].gpa = g->slots[i].gpa;
        a->slots[i].bytes = g->slots[i].bytes;
        a->slots[i].offset = g->slots[i].offset;
        a->slot_list[i] = &a->slots[i];
    }
    r->slots = a->slot_list;
    r->n_slots = g->slot_count;
    r->memfd_bytes = g->bytes;
    r->large_pages = g->large;
    a->fd = writable ? g->fd : g->ro_fd;
    a->resp.op_case = FERRY__RESPONSE__OP_MEMORY;
    a->resp.memory = r;
    return 0;
}

static int op_pause(struct fy_conn *c, bool keep, struct fy_answer *a, struct fy_err *e)
{
    Ferry__PauseReply *r = &a->u.pause;
    ferry__pause_reply__init(r);
    if (fy_life_pause(c->s->life, keep ? NULL : &c->lease, &r->pause_ns, e) < 0)
        return -1;
    a->resp.op_case = FERRY__RESPONSE__OP_PAUSE;
    a->resp.pause = r;
    return 0;
}

static int op_resume(struct fy_conn *c, bool keep, struct fy_answer *a, struct fy_err *e)
{
    Ferry__ResumeReply *r = &a->u.resume;
    ferry__resume_reply__init(r);
    if (fy_life_resume(c->s->life, keep ? NULL : &c->lease, e) < 0)
        return -1;
    r->state = fy_life_state(c->s->life);
    a->resp.op_case = FERRY__RESPONSE__OP_RESUME;
    a->resp.resume = r;
    return 0;
}

static int op_save(struct fy_server *s, struct fy_answer *a, struct fy_err *e)
{
    Ferry__GuestState st = fy_life_state(s->life);
    if (st != FERRY__GUEST_STATE__GUEST_PAUSED && st != FERRY__GUEST_STATE__GUEST_HANDED_OVER)
        return fy_fail(e, FY_ESTATE, "state can only be saved of a paused guest");
    uint64_t start = fy_now_ns();
    uint8_t *buf = NULL;
    size_t len = 0;
    if (fy_machine_save(s->m, &buf, &len, e) < 0)
        return -1;
    a->fd = memfd_create("ferry-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    a->close_fd = true;
    int r = a->fd < 0 || fy_pwrite_all(a->fd, buf, len, 0) < 0 ||
            fcntl(a->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0;
    int err = errno;
    free(buf);
    if (r)
        return fy_fail_errno(e, FY_ERESOURCE, err, "cannot hold the state");
    Ferry__SaveStateReply *reply = &a->u.save_state;
    ferry__save_state_reply__init(reply);
    reply->bytes = len;
    reply->took_ns = fy_now_ns() - start;
    a->resp.op_case = FERRY__RESPONSE__OP_SAVE_STATE;
    a->resp.save_state = reply;
    return 0;
}

static int op_load(struct fy_server *s, uint64_t bytes, const int *fds, int nfds, struct fy_answer *a,
                   struct fy_err *e)
{
    uint64_t start = fy_now_ns();
    struct stat st;
    if (nfds != 1)
        return fy_fail(e, FY_EUSAGE, "state is loaded from one descriptor, %d came", nfds);
    if (bytes == 0 || bytes > FY_STATE_MAX || fstat(fds[0], &st) < 0 || (uint64_t)st.st_size < bytes)
        return fy_fail(e, FY_ECORRUPT, "state of %llu bytes: more than there is, or over the limit",
                       (unsigned long long)bytes);
    uint8_t *buf = malloc(bytes);
    if (!buf)
        return fy_fail(e, FY_ERESOURCE, "no memory for the state");
    int r = fy_pread_all(fds[0], buf, bytes, 0) < 0
                ? fy_fail_errno(e, FY_EFAIL, errno, "cannot read the state")
                : fy_life_load(s->life, buf, bytes, e);
    free(buf);
    if (r < 0)
        return -1;
    Ferry__LoadStateReply *reply = &a->u.load_state;
    ferry__load_state_reply__init(reply);
    reply->took_ns = fy_now_ns() - start;
    reply->warning = s->life->warning;
    a->resp.op_case = FERRY__RESPONSE__OP_LOAD_STATE;
    a->resp.load_state = reply;
    return 0;
}

static int op_run(struct fy_server *s, const Ferry__RunRequest *req, const int *fds, int nfds,
                  struct fy_answer *a, struct fy_err *e)
{
    if (take_id(&req->handover_id, e) < 0 ||
        fy_life_run(s->life, req->handover_id.data, req->paused, fds, (unsigned)nfds, e) < 0)
        return -1;
    Ferry__RunReply *r = &a->u.run;
    ferry__run_reply__init(r);
    r->took_ns = s->life->run_took_ns;
    r->first_run_ns = s->life->first_run_ns;
    a->resp.op_case = FERRY__RESPONSE__OP_RUN;
    a->resp.run = r;
    return 0;
}

/* Ops whose answer is Empty. */
static int op_plain(struct fy_conn *c, const Ferry__Request *q, struct fy_err *e)
{
    struct fy_life *l = c->s->life;
    switch (q->op_case) {
    case FERRY__REQUEST__OP_LATCH:
        if (take_id(&q->latch->handover_id, e) < 0)
            return -1;
        return fy_life_latch(l, q->latch->handover_id.data, e);
    case FERRY__REQUEST__OP_RESOLVE:
        if (take_id(&q->resolve->handover_id, e) < 0)
            return -1;
        return fy_life_resolve(l, q->resolve->handover_id.data, q->resolve->run_here, e);
    case FERRY__REQUEST__OP_POWER_BUTTON:
        if (!fy_machine_running(l->m))
            return fy_fail(e, FY_ESTATE, "the guest is not running");
        fy_machine_power_button(l->m);
        return 0;
    case FERRY__REQUEST__OP_WRITE_BACK:
        fy_machine_write_back(l->m);
        return 0;
    case FERRY__REQUEST__OP_RESET:
        return fy_life_reset(l, e);
    case FERRY__REQUEST__OP_QUIT:
        return fy_life_quit(l, q->quit->discard, e);
    case FERRY__REQUEST__OP_SUBSCRIBE:
        c->subscribed = true;
        return 0;
    default:
        return fy_fail(e, FY_EUNSUPPORTED, "request %d is not known here", (int)q->op_case);
    }
}

static void op_describe(struct fy_server *s, struct fy_answer *a)
{
    ferry__describe_reply__init(&a->u.describe);
    a->u.describe.machine = (Ferry__Machine *)(uintptr_t)fy_machine_desc(s->m);
    a->resp.op_case = FERRY__RESPONSE__OP_DESCRIBE;
    a->resp.describe = &a->u.describe;
}

int fy_op(struct fy_conn *c, const Ferry__Request *q, const int *fds, int nfds, struct fy_answer *a,
          struct fy_err *e)
{
    struct fy_server *s = c->s;
    switch (q->op_case) {
    case FERRY__REQUEST__OP_HELLO:
        op_hello(s, a);
        return 0;
    case FERRY__REQUEST__OP_STATUS:
        op_status(s, a);
        return 0;
    case FERRY__REQUEST__OP_DESCRIBE:
        op_describe(s, a);
        return 0;
    case FERRY__REQUEST__OP_MEMORY:
        return op_memory(s, q->memory->writable, a, e);
    case FERRY__REQUEST__OP_PAUSE:
        return op_pause(c, q->pause->keep, a, e);
    case FERRY__REQUEST__OP_RESUME:
        return op_resume(c, q->resume->keep, a, e);
    case FERRY__REQUEST__OP_TRACKER_OPEN:
    case FERRY__REQUEST__OP_TRACKER_TAKE:
    case FERRY__REQUEST__OP_TRACKER_DONE:
    case FERRY__REQUEST__OP_TRACKER_GIVEBACK:
    case FERRY__REQUEST__OP_TRACKER_CLOSE:
    case FERRY__REQUEST__OP_TRACKER_COUNT:
        return fy_op_tracker(c, q, a, e);
    case FERRY__REQUEST__OP_RUN_TO:
    case FERRY__REQUEST__OP_COUNT:
    case FERRY__REQUEST__OP_DIGEST:
        return fy_op_icount(c, q, a, e);
    case FERRY__REQUEST__OP_VSOCK_ANSWER:
        return fy_op_vsock_answer(s, q->vsock_answer->id, fds, nfds, a, e);
    case FERRY__REQUEST__OP_STATS:
        return fy_op_stats(s, a, e);
    case FERRY__REQUEST__OP_BALLOON:
        return fy_op_balloon(s, q->balloon, a, e);
    case FERRY__REQUEST__OP_GENERATION:
        return fy_op_generation(s, q->generation->change, a, e);
    case FERRY__REQUEST__OP_FRAMES:
        return fy_op_frames(s, a, e);
    case FERRY__REQUEST__OP_LATE_FRAMES:
        if (fy_op_late_frames(s, q->late_frames, e) < 0)
            return -1;
        fy_answer_empty(a);
        return 0;
    case FERRY__REQUEST__OP_NIC:
        if (fy_op_nic(s, q->nic, fds, nfds, e) < 0)
            return -1;
        fy_answer_empty(a);
        return 0;
    case FERRY__REQUEST__OP_DISK:
        if (fy_op_disk(s, q->disk, fds, nfds, e) < 0)
            return -1;
        fy_answer_empty(a);
        return 0;
    case FERRY__REQUEST__OP_SAVE_STATE:
        return op_save(s, a, e);
    case FERRY__REQUEST__OP_LOAD_STATE:
        return op_load(s, q->load_state->bytes, fds, nfds, a, e);
    case FERRY__REQUEST__OP_RUN:
        return op_run(s, q->run, fds, nfds, a, e);
    case FERRY__REQUEST__OP_CONSOLE_ATTACH:
        return fy_console_attach(s, q->console_attach, a, e);
    default:
        if (op_plain(c, q, e) < 0)
            return -1;
        fy_answer_empty(a);
        return 0;
    }
}
