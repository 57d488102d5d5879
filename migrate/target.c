// SPDX-License-Identifier: Apache-2.0
#include "migrate/target.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "migrate/run.h"
#include "migrate/verify.h"
#include "proto/stream.pb-c.h"

/* From READY on the source decides within a second or two; past this the guest stays where it was. */
/* FRAMES: how long for the next one, and how many. */
#define FRAMES_TIMEOUT_MS 500
#define FRAMES_RECORDS_MAX 256
#define COMMIT_TIMEOUT_MS 10000
#define LINGER_MS 2000

int fy_target_fault(enum fy_fault point, struct fy_err *e)
{
    return fy_fault_hit(point) ? fy_fail(e, FY_EFAIL, "fault point %d", (int)point) : 0;
}

/* --- the job's reading thread
 * -------------------------------------------------------------------------------- */

static void give_up(struct fy_target *t, const char *why, int code)
{
    pthread_mutex_lock(&t->lock);
    if (!t->gone && !t->committed) {
        t->gone = true;
        fy_fail(&t->gone_err, code, "%s", why);
        if (t->control.chan)
            fy_chan_abort(t->control.chan);
    }
    pthread_mutex_unlock(&t->lock);
}

static void on_cancel(void *arg, const char *why)
{
    give_up(arg, why, FY_ECANCELLED);
}

static void on_gone(void *arg)
{
    give_up(arg, "ferryd ended", FY_EUNREACHABLE);
}

static void on_channel(void *arg, unsigned channel, int sock)
{
    struct fy_target *t = arg;
    pthread_mutex_lock(&t->lock);
    if (t->sink)
        fy_sink_add(t->sink, channel, sock);
    else
        fy_close(&sock);
    pthread_mutex_unlock(&t->lock);
}

/* --- control channel
 * ----------------------------------------------------------------------------------------- */

/* Say why to the source and wait until it has closed, so that a reset cannot overtake the words. */
static void send_error(struct fy_target *t, const struct fy_err *why)
{
    struct fy_err e;
    struct fy_record_header h;
    fy_control_send_error(&t->control, why);
    uint64_t until = fy_now_ns() + LINGER_MS * 1000000ull;
    fy_chan_set_timeout(t->control.chan, LINGER_MS);
    while (fy_now_ns() < until && fy_chan_wait(t->control.chan, -1, LINGER_MS, &e) == 1)
        if (fy_control_read(&t->control, 0, &h, &e) < 0)
            break;
}

/* --- memory and state
 * ---------------------------------------------------------------------------------------- */

/* Acknowledge barriers that all channels have passed. */
static int acknowledge(struct fy_target *t, struct fy_err *e)
{
    uint64_t rounds;
    uint64_t apply_ns;
    if (fy_sink_poll(t->sink, &rounds, &apply_ns, e) < 0)
        return -1;
    while (t->acked < rounds) {
        Ferry__StreamRate m = FERRY__STREAM_RATE__INIT;
        m.round = ++t->acked;
        m.apply_ns = apply_ns;
        if (fy_control_send(&t->control, FY_REC_RATE, &m.base, e) < 0)
            return -1;
    }
    return 0;
}

static int add_state(struct fy_target *t, uint32_t len, struct fy_err *e)
{
    if (t->state_fd < 0)
        t->state_fd = memfd_create("incoming-state", MFD_CLOEXEC);
    if (t->state_bytes + len > FY_STATE_MAX)
        return fy_fail(e, FY_ECORRUPT, "the guest's state is over the limit of %u bytes", FY_STATE_MAX);
    if (t->state_fd < 0 || fy_pwrite_all(t->state_fd, t->control.buf, len, (off_t)t->state_bytes) < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot keep the guest's state");
    t->state_bytes += len;
    return 0;
}

static int check_channels(struct fy_target *t, const Ferry__StreamStateEnd *m, struct fy_err *e)
{
    if (m->n_channels != t->channels)
        return fy_fail(e, FY_ECORRUPT, "%zu channels are summed up, %u were used", m->n_channels,
                       t->channels);
    for (size_t i = 0; i < m->n_channels; i++) {
        const Ferry__ChannelSummary *c = m->channels[i];
        uint64_t records;
        uint64_t digest;
        if (c->channel != i + 1)
            return fy_fail(e, FY_ECORRUPT, "summary of channel %u where %zu is due", c->channel, i + 1);
        fy_sink_summary(t->sink, c->channel, &records, &digest);
        if (records != c->records || digest != c->digest)
            return fy_fail(e, FY_ECORRUPT,
                           "channel %u: %" PRIu64 " records arrived, %" PRIu64
                           " were sent, or their digests differ",
                           c->channel, records, c->records);
    }
    if (!m->has_memory_digest)
        return t->verify ? fy_fail(e, FY_ECORRUPT, "the source was to send a digest of memory and did not")
                         : 0;
    uint64_t digest;
    if (fy_memory_digest(t->mem_fd, t->memory_pages, t->channels, &digest, e) < 0)
        return -1;
    if (digest != m->memory_digest)
        return fy_fail(e, FY_ECORRUPT, "memory here differs from the source's after the last round");
    t->report.verified = true;
    return 0;
}

static int await_last_round(struct fy_target *t, uint64_t rounds, struct fy_err *e)
{
    while (t->acked < rounds) {
        struct fy_record_header h;
        int n = fy_chan_wait(t->control.chan, t->wake_fd, -1, e);
        uint64_t count;
        if (n < 0 || (n == 1 && fy_control_read(&t->control, 0, &h, e) < 0))
            return -1;
        if (n == 1)
            return fy_fail(e, FY_ECORRUPT, "record type %u after STATE_END", h.type);
        if (read(t->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
            return fy_fail_errno(e, FY_EFAIL, errno, "eventfd");
        if (acknowledge(t, e) < 0)
            return -1;
    }
    return t->acked == rounds
               ? 0
               : fy_fail(e, FY_ECORRUPT, "%" PRIu64 " rounds came, %" PRIu64 " were sent", t->acked, rounds);
}

static int load_state(struct fy_target *t, char *warning, struct fy_err *e)
{
    uint64_t start = fy_now_ns();
    int rc = fy_ctl_load_state(t->ctl, t->state_fd, t->state_bytes, warning, e);
    t->report.load_ns = fy_now_ns() - start;
    return rc;
}

static int finish_state(struct fy_target *t, uint32_t len, struct fy_err *e)
{
    Ferry__StreamStateEnd *m = ferry__stream_state_end__unpack(NULL, len, t->control.buf);
    if (!m)
        return fy_fail(e, FY_ECORRUPT, "the source's STATE_END does not parse");
    Ferry__StreamReady r = FERRY__STREAM_READY__INIT;
    char warning[FY_ERR_TEXT] = "";
    int rc = fy_target_fault(FY_FAULT_DST_STATE, e);
    if (rc == 0 && t->state_fd < 0)
        rc = fy_fail(e, FY_ECORRUPT, "no state came");
    /* Loading overlaps the last pages, but with --verify it comes after the digest: restoring a paravirtual
     * clock makes KVM write to the guest's memory. */
    if (rc == 0 && !m->has_memory_digest)
        rc = load_state(t, warning, e);
    if (rc == 0)
        rc = await_last_round(t, m->rounds, e);
    if (rc == 0)
        rc = check_channels(t, m, e);
    if (rc == 0 && m->has_memory_digest)
        rc = load_state(t, warning, e);
    ferry__stream_state_end__free_unpacked(m, NULL);
    if (rc == 0)
        rc = fy_target_fault(FY_FAULT_DST_LOADED, e);
    if (rc < 0)
        return -1;
    t->report.rounds = (uint32_t)t->acked;
    snprintf(t->warning, sizeof t->warning, "%s", warning);
    r.ok = true;
    r.load_ns = t->report.load_ns;
    r.warning = warning;
    t->ready_ns = fy_now_ns();
    if (fy_control_send(&t->control, FY_REC_READY, &r.base, e) < 0)
        return -1;
    return fy_target_fault(FY_FAULT_DST_READY, e);
}

/* Rounds and state until READY is sent. */
static int receive(struct fy_target *t, struct fy_err *e)
{
    fy_chan_set_timeout(t->control.chan, 0);
    for (;;) {
        struct fy_record_header h;
        uint64_t count;
        int n = fy_chan_wait(t->control.chan, t->wake_fd, -1, e);
        if (n < 0)
            return -1;
        if (n == 2) {
            if (read(t->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
                return fy_fail_errno(e, FY_EFAIL, errno, "eventfd");
            if (acknowledge(t, e) < 0)
                return -1;
            continue;
        }
        if (fy_control_read(&t->control, 0, &h, e) < 0)
            return -1;
        if (h.type == FY_REC_STATE_END)
            return finish_state(t, h.length, e);
        if (h.type != FY_REC_STATE)
            return fy_fail(e, FY_ECORRUPT, "record type %u while memory is moving", h.type);
        if (add_state(t, h.length, e) < 0)
            return -1;
    }
}

/* --- hand-over
 * ----------------------------------------------------------------------------------------------- */

static int await_commit(struct fy_target *t, struct fy_err *e)
{
    struct fy_record_header h;
    fy_chan_set_timeout(t->control.chan, COMMIT_TIMEOUT_MS);
    int n = fy_chan_wait(t->control.chan, -1, COMMIT_TIMEOUT_MS, e);
    if (n == 0)
        return fy_fail(e, FY_EDEADLINE, "no COMMIT came within %d s", COMMIT_TIMEOUT_MS / 1000);
    if (n < 0 || fy_control_read(&t->control, FY_REC_COMMIT, &h, e) < 0)
        return -1;
    Ferry__StreamCommit *m = ferry__stream_commit__unpack(NULL, h.length, t->control.buf);
    bool ours = m && m->handover_id.len == FY_JOB_ID_LEN &&
                !memcmp(m->handover_id.data, t->start->job_id.data, FY_JOB_ID_LEN);
    if (m)
        ferry__stream_commit__free_unpacked(m, NULL);
    return ours ? 0 : fy_fail(e, FY_ECORRUPT, "COMMIT of another hand-over");
}

/* What came for the guest's cards at the source. It runs: nothing here is worth an error of the job's. */
static int take_frames(struct fy_target *t, struct fy_err *e)
{
    bool last = false;
    for (unsigned i = 0; !last && i < FRAMES_RECORDS_MAX; i++) {
        struct fy_record_header h;
        int n = fy_chan_wait(t->control.chan, -1, FRAMES_TIMEOUT_MS, e);
        if (n == 0)
            return fy_fail(e, FY_EDEADLINE, "none came within %d ms", FRAMES_TIMEOUT_MS);
        if (n < 0 || fy_control_read(&t->control, FY_REC_FRAMES, &h, e) < 0)
            return -1;
        Ferry__StreamFrames *m = ferry__stream_frames__unpack(NULL, h.length, t->control.buf);
        if (!m)
            return fy_fail(e, FY_ECORRUPT, "FRAMES does not parse");
        last = m->last;
        int rc = m->frames.len ? fy_ctl_late_frames(t->ctl, m->frames.data, m->frames.len, e) : 0;
        ferry__stream_frames__free_unpacked(m, NULL);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* The daemon runs the guest and records it, not this worker. */
static int run_guest(struct fy_target *t, uint64_t commit_ns, struct fy_err *e)
{
    Ferry__RunIncoming m = FERRY__RUN_INCOMING__INIT;
    m.handover_id = t->start->job_id;
    m.paused = t->start_paused;
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_RUN;
    out.run = &m;
    Ferry__WorkerIn *in;
    if (fy_job_call(t->job, &out, &in, NULL, e) < 0)
        return -1;
    Ferry__StreamRunning r = FERRY__STREAM_RUNNING__INIT;
    r.takes_frames = t->has_nics;
    r.handover_id = t->start->job_id;
    if (in->kind_case == FERRY__WORKER_IN__KIND_RUN) {
        r.resume_ns = in->run->resume_ns;
        if (in->run->first_run_ns > commit_ns)
            r.commit_to_run_ns = in->run->first_run_ns - commit_ns;
        else
            r.commit_to_run_ns = r.resume_ns;
    }
    t->report.resume_ns = r.commit_to_run_ns;
    ferry__worker_in__free_unpacked(in, NULL);
    if (fy_target_fault(FY_FAULT_DST_RAN, e) < 0)
        return -1;
    struct fy_err lost;
    if (fy_control_send(&t->control, FY_REC_RUNNING, &r.base, &lost) < 0)
        fy_warn("the guest runs here, but its source could not be told: %s", lost.text);
    else if (t->has_nics && take_frames(t, &lost) < 0)
        fy_debug("frames from the guest's old place: %s", lost.text);
    return 0;
}

static int hand_over(struct fy_target *t, struct fy_err *e)
{
    if (await_commit(t, e) < 0)
        return -1;
    uint64_t commit_ns = fy_now_ns();
    pthread_mutex_lock(&t->lock);
    bool late = t->gone;
    t->committed = !late;
    pthread_mutex_unlock(&t->lock);
    if (late)
        return fy_fail(e, FY_ECANCELLED, "given up before COMMIT");
    if (fy_target_fault(FY_FAULT_DST_COMMIT, e) < 0)
        return -1;
    return run_guest(t, commit_ns, e);
}

static void abort_incoming(struct fy_target *t, const struct fy_err *why)
{
    struct fy_err e;
    Ferry__AbortIncoming m = FERRY__ABORT_INCOMING__INIT;
    m.handover_id = t->start->job_id;
    m.why = (char *)(uintptr_t)why->text;
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_ABORT;
    out.abort = &m;
    if (fy_job_call(t->job, &out, NULL, NULL, &e) < 0)
        fy_warn("the daemon could not be told to drop the incoming guest: %s", e.text);
}

static int connect_source(struct fy_target *t, struct fy_err *e)
{
    int sock = fy_job_take_fd(t->job, 2);
    if (sock < 0)
        return fy_fail(e, FY_EFAIL, "the daemon gave no peer socket");
    t->tls = fy_job_tls(t->job, true, false, e);
    if (!t->tls) {
        fy_close(&sock);
        return -1;
    }
    struct fy_chan *c = fy_chan_new(sock, t->tls, e);
    if (!c)
        return -1;
    snprintf(t->control.peer, sizeof t->control.peer, "%s", fy_chan_peer(c));
    pthread_mutex_lock(&t->lock);
    t->control.chan = c;
    bool gone = t->gone;
    pthread_mutex_unlock(&t->lock);
    return gone ? fy_fail(e, FY_ECANCELLED, "given up") : 0;
}

static int run(struct fy_target *t, struct fy_err *e)
{
    if (connect_source(t, e) < 0 || fy_target_hello(t, e) < 0 || fy_target_description(t, e) < 0)
        return -1;
    if (t->plan_only) {
        t->report.state = (char *)(uintptr_t) "planned";
        return 0;
    }
    if (receive(t, e) < 0)
        return -1;
    return hand_over(t, e);
}

static void release(struct fy_target *t)
{
    pthread_mutex_lock(&t->lock);
    struct fy_sink *sink = t->sink;
    t->sink = NULL;
    fy_control_release(&t->control);
    pthread_mutex_unlock(&t->lock);
    fy_sink_free(sink);
    fy_tls_free(t->tls);
    fy_close(&t->mem_fd);
    fy_close(&t->state_fd);
}

int fy_run_receive(struct fy_job *job, uint64_t began_ns)
{
    static struct fy_target target;
    struct fy_target *t = &target;
    struct fy_err e = {0};
    t->job = job;
    t->start = fy_job_start(job);
    t->began_ns = began_ns;
    t->mem_fd = t->state_fd = -1;
    pthread_mutex_init(&t->lock, NULL);
    ferry__job_report__init(&t->report);
    t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct fy_job_events events = {.arg = t, .cancel = on_cancel, .channel = on_channel, .gone = on_gone};
    int rc = t->wake_fd < 0 ? fy_fail_errno(&e, FY_ERESOURCE, errno, "no descriptor for the job")
                            : fy_control_init(&t->control, &e);
    if (rc == 0)
        rc = fy_job_run(job, &events, &e);
    if (rc == 0)
        rc = run(t, &e);
    pthread_mutex_lock(&t->lock);
    if (rc < 0 && t->gone)
        e = t->gone_err;
    pthread_mutex_unlock(&t->lock);
    if (rc < 0) {
        /* Drop the guest before the source hears of it: when it resumes, nothing is left here. */
        fy_ctl_free(t->ctl);
        t->ctl = NULL;
        if (t->created && !t->committed)
            abort_incoming(t, &e);
        if (t->control.chan)
            send_error(t, &e);
    }
    t->report.total_ns = fy_now_ns() - began_ns;
    t->report.peer_host = t->control.peer;
    t->report.warning = t->warning;
    t->report.channels = t->channels;
    t->report.tls = !t->plaintext;
    t->report.cpu_ns = fy_process_cpu_ns();
    fy_job_report(job, &t->report, rc < 0 ? &e : NULL);
    release(t);
    fy_ctl_free(t->ctl);
    return rc < 0 ? e.code : 0;
}
