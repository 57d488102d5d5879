// SPDX-License-Identifier: Apache-2.0
/* vCPU threads: running and parking them. `m->run` says what is wanted; a vCPU thread looks at it with the
 * lock held, clears its kick only then, and is kicked only after it became false, so that no kick can be
 * lost. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/hex.h"
#include "hv/base/log.h"
#include "hv/sandbox/sandbox.h"
#include "hv/vm/internal.h"

#define VCPU_TURN_NS 300000ull

static void kick_all(struct fy_machine *m)
{
    for (unsigned i = 0; i < m->vcpus; i++)
        m->engine->ops->vcpu_kick(m->engine, i);
}

static void on_ended(void *arg)
{
    struct fy_machine *m = arg;
    /* A pause may have met the end first, and a reset dealt with it. */
    if (fy_machine_end(m) == FY_END_NONE)
        return;
    fy_machine_pause(m);
    if (m->ended)
        m->ended(m->arg);
}

static void on_reached(void *arg)
{
    struct fy_machine *m = arg;
    pthread_mutex_lock(&m->lock);
    bool there = m->at_stop;
    m->at_stop = false;
    pthread_mutex_unlock(&m->lock);
    if (!there)
        return;
    fy_machine_pause(m);
    m->engine->icount->stop_at(m->engine, FY_ICOUNT_NEVER);
    if (m->reached)
        m->reached(m->arg);
}

/* The vCPU's thread. */
static void reached(struct fy_machine *m)
{
    pthread_mutex_lock(&m->lock);
    m->run = false;
    m->at_stop = true;
    pthread_mutex_unlock(&m->lock);
    struct fy_err e;
    if (fy_loop_post(m->loop, on_reached, m, &e) < 0)
        fy_error("the guest stands at its count and the main thread cannot be told: %s", e.text);
}

void fy_machine_request_end(struct fy_machine *m, enum fy_end end, int status, const char *report)
{
    bool first = false;
    pthread_mutex_lock(&m->lock);
    if (m->end == FY_END_NONE) {
        m->end = end;
        m->exit_status = status;
        snprintf(m->report, sizeof m->report, "%s", report);
        m->run = false;
        first = true;
        pthread_cond_broadcast(&m->parked);
    }
    pthread_mutex_unlock(&m->lock);
    if (!first)
        return;
    kick_all(m);
    struct fy_err e;
    if (fy_loop_post(m->loop, on_ended, m, &e) < 0)
        fy_error("the guest has ended and the main thread cannot be told: %s", e.text);
}

/* Ask for short turns on the CPU: the scheduler then lets a vCPU that wakes (a timer of the guest's) go
 * before a worker that is in the middle of a long turn, without giving it more time in all. Kernels
 * before 6.12 ignore the wish. */
static void ask_short_turns(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = {.size = 48, .policy = SCHED_OTHER, .runtime = VCPU_TURN_NS};
    syscall(SYS_sched_setattr, 0, &attr, 0);
}

static void *vcpu_main(void *arg)
{
    struct fy_vcpu_thread *t = arg;
    struct fy_machine *m = t->m;
    const struct fy_engine_ops *ops = m->engine->ops;
    char *report = malloc(FY_REPORT_MAX);
    char name[16];
    /* by itself: for another thread this would go through /proc */
    snprintf(name, sizeof name, "vcpu%u", t->index);
    pthread_setname_np(pthread_self(), name);
    ops->vcpu_attach(m->engine, t->index);
    ask_short_turns();
    fy_sandbox_thread(FY_SANDBOX_VCPU);
    pthread_mutex_lock(&m->lock);
    while (!m->quit) {
        if (!m->run) {
            if (!t->parked) {
                t->parked = true;
                m->parked_count++;
                pthread_cond_broadcast(&m->parked);
            }
            pthread_cond_wait(&m->wake, &m->lock);
            continue;
        }
        ops->vcpu_unkick(m->engine, t->index);
        if (!m->first_run_ns) {
            m->first_run_ns = fy_now_ns();
            pthread_cond_broadcast(&m->parked);
        }
        pthread_mutex_unlock(&m->lock);
        enum fy_vcpu_end end = ops->vcpu_run(m->engine, t->index, report);
        if (end == FY_VCPU_KICKED)
            ops->vcpu_settle(m->engine, t->index);
        else if (end == FY_VCPU_STOPPED)
            reached(m);
        else
            fy_machine_request_end(m, FY_END_CRASH, -1, report);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    free(report);
    return NULL;
}

int fy_machine_start_threads(struct fy_machine *m, struct fy_err *e)
{
    sigset_t all, was;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &was); /* signals are the main thread's; attach unblocks the kick */
    for (unsigned i = 0; i < m->vcpus; i++) {
        struct fy_vcpu_thread *t = &m->threads[i];
        t->m = m;
        t->index = i;
        int err = pthread_create(&t->id, NULL, vcpu_main, t);
        if (err) {
            pthread_sigmask(SIG_SETMASK, &was, NULL);
            return fy_fail_errno(e, FY_ERESOURCE, err, "cannot start the thread of vCPU %u", i);
        }
        t->started = true;
    }
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    pthread_mutex_lock(&m->lock);
    while (m->parked_count < m->vcpus)
        pthread_cond_wait(&m->parked, &m->lock);
    pthread_mutex_unlock(&m->lock);
    return 0;
}

void fy_machine_stop_threads(struct fy_machine *m)
{
    pthread_mutex_lock(&m->lock);
    m->run = false;
    m->quit = true;
    pthread_cond_broadcast(&m->wake);
    pthread_mutex_unlock(&m->lock);
    if (m->engine)
        kick_all(m);
    for (unsigned i = 0; i < m->vcpus; i++)
        if (m->threads[i].started)
            pthread_join(m->threads[i].id, NULL);
}

/* The evidence of who ran when: one line, one write, before the first entry and after the last exit. */
static int run_log(struct fy_machine *m, const char *what, uint64_t now)
{
    char line[160], run[33], uuid[33], id[33] = "-";
    if (m->runlog_fd < 0)
        return 0;
    fy_hex(m->run_id, 16, run);
    fy_hex(m->desc->uuid.data, m->desc->uuid.len == 16 ? 16 : 0, uuid);
    if (m->has_handover_id)
        fy_hex(m->handover_id, 16, id);
    int n = snprintf(line, sizeof line, "%s %s %llu %s %s\n", run, what, (unsigned long long)now, uuid, id);
    if (write(m->runlog_fd, line, (size_t)n) == n)
        return 0;
    fy_warn("the run log cannot be written");
    return -1;
}

int fy_machine_run(struct fy_machine *m, const uint8_t *handover_id, bool must_log, struct fy_err *e)
{
    if (m->running)
        return 0;
    m->has_handover_id = handover_id;
    if (handover_id)
        memcpy(m->handover_id, handover_id, 16);
    uint64_t now = fy_now_ns();
    if (run_log(m, "enter", now) < 0 && must_log)
        return fy_fail(e, FY_ERESOURCE, "the run log cannot be written: the guest is not run");
    m->running = true;
    m->running_since = now;
    m->engine->ops->clock_resumed(m->engine);
    __atomic_store_n(&m->clock_frozen, false, __ATOMIC_RELEASE);
    fy_machine_resume_devices(m);
    pthread_mutex_lock(&m->lock);
    if (m->end == FY_END_NONE) {
        m->run = true;
        m->parked_count = 0;
        for (unsigned i = 0; i < m->vcpus; i++)
            m->threads[i].parked = false;
        pthread_cond_broadcast(&m->wake);
    }
    pthread_mutex_unlock(&m->lock);
    return 0;
}

uint64_t fy_machine_pause(struct fy_machine *m)
{
    if (!m->running)
        return 0;
    uint64_t start = fy_now_ns();
    pthread_mutex_lock(&m->lock);
    m->run = false;
    pthread_mutex_unlock(&m->lock);
    kick_all(m);
    pthread_mutex_lock(&m->lock);
    while (m->parked_count < m->vcpus)
        pthread_cond_wait(&m->parked, &m->lock);
    pthread_mutex_unlock(&m->lock);
    fy_machine_pause_devices(m);
    uint64_t now = fy_now_ns();
    __atomic_store_n(&m->clock_frozen_ns, now + (uint64_t)m->clock_offset, __ATOMIC_RELAXED);
    __atomic_store_n(&m->clock_frozen, true, __ATOMIC_RELEASE);
    m->running = false;
    m->running_ns += now - m->running_since;
    run_log(m, "leave", now);
    return now - start;
}

bool fy_machine_running(const struct fy_machine *m)
{
    return m->running;
}

uint64_t fy_machine_first_run_ns(struct fy_machine *m)
{
    pthread_mutex_lock(&m->lock);
    while (m->run && !m->first_run_ns && m->end == FY_END_NONE)
        pthread_cond_wait(&m->parked, &m->lock);
    uint64_t at = m->first_run_ns;
    pthread_mutex_unlock(&m->lock);
    return at;
}

enum fy_end fy_machine_end(struct fy_machine *m)
{
    pthread_mutex_lock(&m->lock);
    enum fy_end end = m->end;
    pthread_mutex_unlock(&m->lock);
    return end;
}

const char *fy_machine_report(const struct fy_machine *m)
{
    return m->report;
}

int fy_machine_exit_status(struct fy_machine *m)
{
    pthread_mutex_lock(&m->lock);
    int status = m->exit_status;
    pthread_mutex_unlock(&m->lock);
    return status;
}

void fy_machine_times(struct fy_machine *m, struct fy_machine_times *t)
{
    struct stat st;
    memset(t, 0, sizeof *t);
    t->running_ns = m->running_ns + (m->running ? fy_now_ns() - m->running_since : 0);
    if (fstat(m->gmem->fd, &st) == 0)
        t->resident = (uint64_t)st.st_blocks * 512;
    for (unsigned i = 0; i < m->vcpus; i++) {
        clockid_t id;
        struct timespec ts;
        if (pthread_getcpuclockid(m->threads[i].id, &id) == 0 && clock_gettime(id, &ts) == 0)
            t->vcpu_cpu_ns += (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
    }
}
