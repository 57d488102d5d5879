// SPDX-License-Identifier: Apache-2.0
/* Unmasked SIMD floating-point exceptions: the instruction runs with the guest's masks and SIGFPE says what
 * the processor has flagged. Slow, and rare: only where an exception is unmasked and seems due. */
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

#include "hv/cpu/soft/x_simd.h"

/* Of this thread. */
static _Thread_local struct {
    volatile bool armed, trapped;
    volatile uint32_t flags;
    bool unblocked;
} trap;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction before;

/* Remember the flags, mask everything and let the instruction run again. */
static void on_fpe(int sig, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    (void)info;
    if (!trap.armed) {
        sigaction(sig, &before, NULL); /* not ours: it comes again, and ends as it would have */
        return;
    }
    trap.flags = u->uc_mcontext.fpregs->mxcsr & 0x3f;
    trap.trapped = true;
    u->uc_mcontext.fpregs->mxcsr |= SIMD_MASKS;
}

static void install(void)
{
    struct sigaction sa = {.sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGFPE, &sa, &before);
}

/* vCPU threads block all signals; one that the processor raises must not be. */
static void arm(void)
{
    pthread_once(&once, install);
    if (!trap.unblocked) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGFPE);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        trap.unblocked = true;
    }
    trap.trapped = false;
    trap.armed = true;
}

/* The end of a lane's instruction. */
static void collect(struct simd_fp *f, uint32_t now)
{
    f->flags |= trap.trapped ? trap.flags : now & 0x3f;
    trap.trapped = false;
}

static void load(const struct soft_cpu *c)
{
    uint32_t control = c->mxcsr & ~0x3fu;
    __asm__ volatile("ldmxcsr %0" : : "m"(control));
}

bool simd_fp_again(struct soft_cpu *c, struct simd_fp *f, uint32_t now)
{
    if (f->pass > 1) {
        trap.armed = false;
        collect(f, now);
        return false;
    }
    if (c->mxcsr & SIMD_UM && !(f->flags & ~(c->mxcsr >> 7) & 0x3f))
        return false;
    f->pass = 2;
    f->flags = 0;
    arm();
    load(c);
    return true;
}

void simd_fp_trap_lane(struct soft_cpu *c, struct simd_fp *f)
{
    uint32_t now;
    __asm__ volatile("stmxcsr %0" : "=m"(now));
    collect(f, now);
    f->pass = 3;
    load(c);
}
