// SPDX-License-Identifier: Apache-2.0
/* The system calls of each kind of thread. What is not listed fails with EPERM: a mistake in a list then
 * costs one operation, not the guest. */
#include <errno.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/base/log.h"
#include "hv/sandbox/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define VCPU (1u << FY_SANDBOX_VCPU)
#define IO (1u << FY_SANDBOX_IO)
#define MAIN (1u << FY_SANDBOX_MAIN)
#define NET (1u << FY_SANDBOX_NET)
#define WORKER (1u << FY_SANDBOX_WORKER | NET)
#define ALL (VCPU | IO | MAIN | WORKER)

#define CALL(name, kinds)                                                                                    \
    {                                                                                                        \
        SCMP_SYS(name), kinds                                                                                \
    }

static const struct {
    int number;
    unsigned kinds;
} calls[] = {
    /* time, memory, threads: what the C library does for everybody */
    CALL(futex, ALL),
    CALL(clock_gettime, ALL),
    CALL(clock_nanosleep, ALL),
    CALL(nanosleep, ALL),
    CALL(gettimeofday, ALL),
    CALL(time, ALL),
    CALL(restart_syscall, ALL),
    CALL(mmap, ALL),
    CALL(munmap, ALL),
    CALL(mprotect, ALL),
    CALL(mremap, ALL),
    CALL(madvise, ALL),
    CALL(brk, ALL),
    CALL(rt_sigaction, ALL),
    CALL(rt_sigprocmask, ALL),
    CALL(rt_sigreturn, ALL),
    CALL(sigaltstack, ALL),
    CALL(sched_yield, ALL),
    CALL(getpid, ALL),
    CALL(gettid, ALL),
    CALL(tgkill, ALL),
    CALL(exit, ALL),
    CALL(exit_group, ALL),
    CALL(getrandom, ALL),
    CALL(membarrier, ALL),
    CALL(prctl, ALL),
    CALL(sched_getaffinity, ALL),
    CALL(sched_setattr, ALL),
    CALL(set_robust_list, ALL),
    CALL(rseq, ALL),
    /* descriptors that are there: eventfds, the log, the KVM device */
    CALL(read, ALL),
    CALL(write, ALL),
    CALL(writev, ALL),
    CALL(close, ALL),
    CALL(ioctl, ALL),
    CALL(fallocate, ALL),
    /* the event loop */
    CALL(epoll_wait, IO | MAIN | WORKER),
    CALL(epoll_pwait, IO | MAIN | WORKER),
    CALL(epoll_ctl, IO | MAIN | WORKER),
    CALL(poll, ALL), /* likewise, of a disk with a server */
    CALL(ppoll, ALL),
    CALL(eventfd2, IO | MAIN | WORKER),
    CALL(timerfd_create, IO | MAIN | WORKER),
    CALL(timerfd_settime, ALL),
    CALL(fcntl, IO | MAIN | WORKER),
    CALL(epoll_create1, IO | MAIN | WORKER),
    /* disks, and guest memory by descriptor */
    CALL(pread64, IO | MAIN | WORKER),
    CALL(pwrite64, IO | MAIN | WORKER),
    CALL(preadv, IO | MAIN | WORKER),
    CALL(pwritev, IO | MAIN | WORKER),
    CALL(preadv2, IO | MAIN | WORKER),
    CALL(pwritev2, IO | MAIN | WORKER),
    CALL(readv, IO | MAIN | WORKER),
    CALL(fsync, IO | MAIN | WORKER),
    CALL(fdatasync, IO | MAIN | WORKER),
    CALL(lseek, IO | MAIN | WORKER),
    CALL(fstat, IO | MAIN | WORKER),
    CALL(newfstatat, IO | MAIN | WORKER),
    CALL(io_uring_enter, ALL), /* a vCPU that resets a disk waits for it */
    CALL(io_uring_register, IO | MAIN | WORKER),
    /* sockets that are there; a vCPU's own is console output to viewers */
    CALL(recvmsg, IO | MAIN | WORKER),
    CALL(sendmsg, IO | MAIN | WORKER),
    CALL(recvmmsg, IO | MAIN | WORKER),
    CALL(sendmmsg, IO | MAIN | WORKER),
    CALL(recvfrom, IO | MAIN | WORKER),
    CALL(sendto, ALL),
    CALL(accept4, IO | MAIN | WORKER),
    CALL(shutdown, IO | MAIN | WORKER),
    CALL(getsockopt, IO | MAIN | WORKER),
    CALL(setsockopt, IO | MAIN | WORKER),
    CALL(getpeername, IO | MAIN | WORKER),
    CALL(getsockname, IO | MAIN | WORKER),
    /* the control socket's work: bitmaps, state files, console pairs */
    CALL(memfd_create, MAIN | WORKER),
    CALL(ftruncate, MAIN | WORKER),
    CALL(socketpair, MAIN | WORKER),
    CALL(dup, MAIN | WORKER),
    CALL(dup3, MAIN | WORKER),
    CALL(pipe2, MAIN | WORKER),
    CALL(kill, MAIN | WORKER),
    CALL(getuid, MAIN | WORKER),
    CALL(geteuid, MAIN | WORKER),
    CALL(uname, MAIN | WORKER),
    CALL(seccomp, MAIN | WORKER), /* a thread narrows what it was given */
    CALL(io_uring_setup, MAIN | WORKER),
    CALL(sched_setscheduler, MAIN | WORKER),
    /* peers and the resolver */
    CALL(socket, WORKER),
    CALL(connect, WORKER),
    CALL(bind, WORKER),
    CALL(openat, WORKER),
    CALL(access, WORKER),
    CALL(faccessat2, WORKER),
    CALL(stat, WORKER),
    CALL(statx, MAIN | WORKER), /* how a disk is to be aligned */
    CALL(lstat, WORKER),
    CALL(readlink, WORKER),
    CALL(getdents64, WORKER),
    CALL(getppid, WORKER),
    CALL(sysinfo, WORKER),
    CALL(getegid, WORKER),
    CALL(getgid, WORKER),
    CALL(getrusage, WORKER),
    CALL(prlimit64, WORKER),
    CALL(pselect6, WORKER),
    CALL(select, WORKER),
    CALL(set_tid_address, WORKER),
    CALL(ioctl, WORKER),
    CALL(times, WORKER),
    CALL(pidfd_open, WORKER),
    CALL(mincore, WORKER),
    CALL(fstatfs, WORKER),
    CALL(splice, WORKER),
    CALL(tee, WORKER),
    CALL(fadvise64, WORKER),
    CALL(sched_getparam, WORKER),
    CALL(copy_file_range, WORKER),
    /* forwards */
    CALL(listen, NET),
    CALL(accept, NET),
};

/* Threads yes, processes no. The newer call keeps its flags in memory, where a filter cannot look: without it
 * the C library falls back to the older one. */
static int allow_threads(scmp_filter_ctx f)
{
    int r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    const scmp_datum_t thread = CLONE_VM | CLONE_THREAD;
    return r ? r
             : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                                SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));
}

uint32_t fy_sandbox_thread(enum fy_sandbox_thread kind)
{
    if (SANITIZED)
        return 0;
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r = f ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < FY_ARRAY_LEN(calls); i++)
        if (calls[i].kinds >> kind & 1)
            r = seccomp_rule_add(f, SCMP_ACT_ALLOW, calls[i].number, 0);
    if (r == 0 && kind != FY_SANDBOX_VCPU)
        r = allow_threads(f);
    /* a binary search, not a list: vCPUs call often */
    if (r == 0)
        seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (r == 0)
        r = seccomp_load(f);
    if (f)
        seccomp_release(f);
    if (r)
        fy_warn("the kernel refuses a list of system calls: %s", strerror(-r));
    return r ? 0 : FY_SANDBOX_CALLS;
}
