// SPDX-License-Identifier: Apache-2.0
/* The host's side: a child process that can do nothing but compute. */
#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/soft/diff.h"

_Static_assert(offsetof(struct diff_state, xsave) == 192, "native_stub.S");
_Static_assert(offsetof(struct diff_state, use_xsave) == 152, "native_stub.S");

extern const uint8_t diff_stub_start[], diff_stub_state1[], diff_stub_state2[], diff_stub_enter[],
    diff_stub_enter32[], diff_stub_leave[], diff_stub_target[], diff_stub_end[];

static struct diff_state *state; /* of the running stream, child only */
static uint64_t leave_at, target_at;
static bool have_xsave;
static uint64_t begun, begun_at_tick; /* streams begun; as the last tick saw it */

static bool xsave_fits(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX))
        return false;
    return __get_cpuid_count(0xd, 2, &a, &b, &c, &d) && b == 576 && a == 256;
}

/* What an image leaves out is in its initial state. */
static void fill_in(uint8_t *x)
{
    uint64_t have = 3;
    static const uint8_t fpu[8] = {0x7f, 3};
    if (have_xsave)
        memcpy(&have, x + 512, 8);
    if (!(have & 1)) {
        memcpy(x, fpu, 8);
        memset(x + 8, 0, 16);
        memset(x + 32, 0, 128);
    }
    if (!(have & 2))
        memset(x + 160, 0, 256);
    if (!(have & 4))
        memset(x + 576, 0, 256);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    static const int regs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    ucontext_t *u = context;
    greg_t *g = u->uc_mcontext.gregs;
    (void)info;
    if (sig == SIGALRM && (!state || begun != begun_at_tick)) {
        begun_at_tick = begun;
        return;
    }
    if (!state)
        _exit(100 + sig);
    for (unsigned i = 0; i < 16; i++)
        state->gpr[i] = (uint64_t)g[regs[i]];
    state->rip = (uint64_t)g[REG_RIP];
    state->rflags = (uint64_t)g[REG_EFL];
    state->vector = sig == SIGALRM ? DIFF_ENDLESS : (uint32_t)g[REG_TRAPNO];
    state->error = (uint32_t)g[REG_ERR];
    state->cr2 = (uint64_t)g[REG_CR2];
    memcpy(state->xsave, u->uc_mcontext.fpregs, have_xsave ? DIFF_XSAVE : 512);
    g[REG_RIP] = (greg_t)leave_at;
    g[REG_RSP] = (greg_t)state->host_rsp;
    g[REG_EFL] = 0x202;
    g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffll) | 0x33;
}

static bool allow_little(void)
{
    static const int calls[] = {SYS_read, SYS_write, SYS_rt_sigreturn, SYS_exit_group, SYS_exit};
    struct sock_filter f[16];
    unsigned n = 0, count = sizeof calls / sizeof *calls;
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
    for (unsigned i = 0; i < count; i++)
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i],
                                              (uint8_t)(count - i), 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog p = {.len = (unsigned short)n, .filter = f};
    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p);
}

static void *map_at(uint64_t at, uint64_t bytes, int prot, int flags, int fd)
{
    void *p = mmap((void *)(uintptr_t)at, bytes, prot, flags | MAP_FIXED_NOREPLACE, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* The stub's code, in a page that a stream can run and read but not write. */
static bool place_stub(const struct diff_state *s)
{
    uint64_t at = (uint64_t)(uintptr_t)s;
    int fd = memfd_create("stub", MFD_CLOEXEC);
    uint8_t *p;
    if (fd < 0 || ftruncate(fd, 0x1000) || !map_at(DIFF_EXIT, 0x1000, PROT_READ | PROT_EXEC, MAP_SHARED, fd))
        return false;
    p = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return false;
    target_at = (uint64_t)(uintptr_t)(p + (diff_stub_target - diff_stub_start));
    memcpy(p, diff_stub_start, (size_t)(diff_stub_end - diff_stub_start));
    memcpy(p + (diff_stub_state1 - diff_stub_start), &at, 8);
    memcpy(p + (diff_stub_state2 - diff_stub_start), &at, 8);
    leave_at = DIFF_EXIT + (uint64_t)(diff_stub_leave - diff_stub_start);
    return true;
}

static void child_one(struct diff_slot *slot, struct diff_state *s, uint8_t *data)
{
    void (*enter)(struct diff_state *) = (void (*)(struct diff_state *))(
        uintptr_t)(DIFF_EXIT + (uint64_t)((diff_32 ? diff_stub_enter32 : diff_stub_enter) - diff_stub_start));
    *s = slot->in;
    s->use_xsave = have_xsave;
    s->target = target_at;
    if (diff_32)
        s->rip |= (uint64_t)0x23 << 32; /* __USER32_CS */
    s->vector = DIFF_NO_VECTOR;
    memcpy(data, slot->mem_in, DIFF_DATA_BYTES);
    begun++;
    state = s;
    enter(s);
    state = NULL;
    if (diff_32 && s->vector == 6 && s->rip == slot->end)
        s->vector = DIFF_NO_VECTOR;
    if (s->vector == DIFF_NO_VECTOR)
        s->rip = DIFF_EXIT;
    fill_in(s->xsave);
    slot->out = *s;
    memcpy(slot->mem_out, data, DIFF_DATA_BYTES);
}

static void child(struct diff_native *n, int code_fd, int in, int out)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM};
    static uint8_t stack[65536] __attribute__((aligned(64)));
    static struct diff_state s __attribute__((aligned(64)));
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction sa = {.sa_sigaction = on_signal,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART};
    struct itimerval tick = {{0, 100000}, {0, 100000}};
    uint32_t count;
    ssize_t got;
    uint8_t *data = map_at(DIFF_DATA, DIFF_DATA_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1);
    if (!data || !place_stub(&s) || sigaltstack(&ss, NULL) ||
        !map_at(DIFF_CODE, DIFF_CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_POPULATE, code_fd) ||
        syscall(SYS_arch_prctl, ARCH_SET_GS, DIFF_GS))
        _exit(1);
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &sa, NULL);
    setitimer(ITIMER_REAL, &tick, NULL);
    if (!allow_little())
        _exit(2);
    while ((got = read(in, &count, sizeof count)) == (ssize_t)sizeof count || (got < 0 && errno == EINTR)) {
        if (got < 0)
            continue;
        for (uint32_t i = 0; i < count && i < DIFF_SLOTS; i++)
            child_one(&n->slots[i], &s, data);
        if (write(out, &count, sizeof count) != (ssize_t)sizeof count)
            break;
    }
    _exit(0);
}

bool diff_native_start(struct diff_native *n)
{
    int in[2], out[2], fd = memfd_create("code", MFD_CLOEXEC);
    have_xsave = xsave_fits();
    n->slots = mmap(NULL, DIFF_SLOTS * sizeof *n->slots, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (fd < 0 || ftruncate(fd, DIFF_CODE_BYTES) || n->slots == MAP_FAILED || pipe(in) || pipe(out))
        return false;
    n->code = mmap(NULL, DIFF_CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (n->code == MAP_FAILED)
        return false;
    fflush(NULL);
    n->pid = fork();
    if (n->pid == 0) {
        close(in[1]);
        close(out[0]);
        child(n, fd, in[0], out[1]);
    }
    close(in[0]);
    close(out[1]);
    close(fd);
    n->to = in[1];
    n->from = out[0];
    return n->pid > 0;
}

bool diff_native_run(struct diff_native *n, unsigned count)
{
    uint32_t v = count;
    struct pollfd p = {.fd = n->from, .events = POLLIN};
    if (write(n->to, &v, sizeof v) != (ssize_t)sizeof v)
        return false;
    if (poll(&p, 1, 20000) != 1)
        return false;
    return read(n->from, &v, sizeof v) == (ssize_t)sizeof v;
}

void diff_native_stop(struct diff_native *n)
{
    int status;
    close(n->to);
    close(n->from);
    kill(n->pid, SIGKILL);
    waitpid(n->pid, &status, 0);
    munmap(n->slots, DIFF_SLOTS * sizeof *n->slots);
    munmap(n->code, DIFF_CODE_BYTES);
}
