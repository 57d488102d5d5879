// SPDX-License-Identifier: Apache-2.0
/* Requests between threads, and handshakes. A vCPU with in_guest set takes requests at its next block
 * boundary; with in_guest clear it touches no guest memory before it has set it and looked at its requests.
 */
#include <sched.h>

#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/mem.h"
#include "hv/cpu/soft/vm.h"

void soft_request(struct soft_cpu *c, uint32_t requests)
{
    __atomic_fetch_or(&c->requests, requests, __ATOMIC_SEQ_CST);
    __atomic_store_n(&c->limit, 0, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&c->waiting, __ATOMIC_SEQ_CST))
        return;
    pthread_mutex_lock(&c->vm->halt_lock);
    pthread_cond_signal(&c->vm->halt_wake[c->index]);
    pthread_mutex_unlock(&c->vm->halt_lock);
}

static void relax(unsigned *turns)
{
    if (++*turns < 64)
        __builtin_ia32_pause();
    else
        sched_yield();
}

void soft_leave_guest(struct soft_cpu *c)
{
    __atomic_store_n(&c->in_guest, 0, __ATOMIC_SEQ_CST);
}

void soft_enter_guest(struct soft_cpu *c)
{
    __atomic_store_n(&c->in_guest, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST))
        soft_take_requests(c, false);
}

/* Until nobody holds the others still. */
static void stand_still(struct soft_cpu *c)
{
    unsigned turns = 0;
    __atomic_store_n(&c->in_guest, 0, __ATOMIC_SEQ_CST);
    for (;;) {
        struct soft_cpu *by = __atomic_load_n(&c->vm->stopper, __ATOMIC_SEQ_CST);
        if (!by || by == c)
            break;
        relax(&turns);
    }
    __atomic_store_n(&c->in_guest, 1, __ATOMIC_SEQ_CST);
}

void soft_take_requests(struct soft_cpu *c, bool boundary)
{
    uint32_t mine = SOFT_REQ_FLUSH | SOFT_REQ_FLUSH_WRITE | SOFT_REQ_STOP | SOFT_REQ_SYNC;
    if (boundary)
        mine |= SOFT_REQ_CODE;
    while (__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST) & mine) {
        __atomic_fetch_add(&c->request_seq, 1, __ATOMIC_SEQ_CST);
        uint32_t r = __atomic_fetch_and(&c->requests, ~mine, __ATOMIC_SEQ_CST) & mine;
        if (r & SOFT_REQ_FLUSH)
            soft_tlb_flush(c);
        else if (r & SOFT_REQ_FLUSH_WRITE)
            soft_tlb_flush_write(c);
        if (r & SOFT_REQ_CODE)
            soft_code_take(c);
        __atomic_fetch_add(&c->request_seq, 1, __ATOMIC_SEQ_CST);
        if (r & SOFT_REQ_STOP)
            stand_still(c);
    }
}

/* Until c has taken what was posted, or cannot touch guest memory before it does. */
static void wait_for(const struct soft_cpu *c)
{
    unsigned turns = 0;
    while (__atomic_load_n(&c->in_guest, __ATOMIC_SEQ_CST)) {
        /* In this order: its turn at taking began before it took SYNC away. */
        if (!(__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST) & SOFT_REQ_SYNC) &&
            !(__atomic_load_n(&c->request_seq, __ATOMIC_SEQ_CST) & 1))
            return;
        relax(&turns);
    }
}

/* sync_lock held. */
static void post_and_wait(struct soft_vm *vm, const struct soft_cpu *self, uint64_t who, uint32_t requests)
{
    if (self)
        who &= ~(1ull << self->index);
    for (unsigned i = 0; i < vm->vcpus; i++)
        if ((who >> i & 1) && vm->cpus[i])
            soft_request(vm->cpus[i], requests | SOFT_REQ_SYNC);
    for (unsigned i = 0; i < vm->vcpus; i++)
        if ((who >> i & 1) && vm->cpus[i])
            wait_for(vm->cpus[i]);
}

void soft_handshake(struct soft_vm *vm, struct soft_cpu *self, uint64_t who, uint32_t requests)
{
    bool inside = self && __atomic_load_n(&self->in_guest, __ATOMIC_RELAXED);
    if (inside)
        soft_leave_guest(self);
    pthread_mutex_lock(&vm->sync_lock);
    post_and_wait(vm, self, who, requests);
    pthread_mutex_unlock(&vm->sync_lock);
    if (inside)
        soft_enter_guest(self);
}

void soft_stop_others(struct soft_cpu *c)
{
    struct soft_vm *vm = c->vm;
    soft_leave_guest(c);
    pthread_mutex_lock(&vm->sync_lock);
    __atomic_store_n(&vm->stopper, c, __ATOMIC_SEQ_CST);
    post_and_wait(vm, c, ~0ull, SOFT_REQ_STOP);
    soft_enter_guest(c);
}

void soft_start_others(struct soft_cpu *c)
{
    __atomic_store_n(&c->vm->stopper, NULL, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&c->vm->sync_lock);
}
