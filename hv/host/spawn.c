// SPDX-License-Identifier: Apache-2.0
#include "hv/host/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hv/base/io.h"

/* In the child, between fork and exec: async-signal-safe calls only, since the inventory's thread may hold
 * locks. */
static void set_up_child(const struct fyd_spawn *s, pid_t parent)
{
    int high[FYD_SPAWN_FDS];
    if (s->session && setsid() < 0)
        return;
    if (s->die_with_us && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent))
        return;
    /* Two steps: a source may sit where a target goes. */
    for (int i = 0; i < s->nfds; i++)
        if ((high[i] = fcntl(s->fds[i], F_DUPFD_CLOEXEC, 3 + FYD_SPAWN_FDS)) < 0)
            return;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, 0) < 0 || dup2(s->out_fd > 0 ? s->out_fd : null, 1) < 0)
        return;
    if (s->log_fd >= 0 && dup2(s->log_fd, 2) < 0)
        return;
    syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
    for (int i = 0; i < s->nfds; i++)
        if (dup2(high[i], 3 + i) < 0)
            return;
    sigset_t none;
    sigemptyset(&none);
    for (int sig = 1; sig < 32; sig++)
        if (sig != SIGKILL && sig != SIGSTOP)
            signal(sig, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(s->path, (char *const *)(uintptr_t)s->argv);
}

int fyd_spawn(const struct fyd_spawn *s, pid_t *pid, int *pidfd, struct fy_err *e)
{
    int status[2];
    if (s->nfds > FYD_SPAWN_FDS || pipe2(status, O_CLOEXEC) < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot start %s", s->path);
    /* Above every target, so that dup2 in the child cannot close it. */
    int told = fcntl(status[1], F_DUPFD_CLOEXEC, 3 + FYD_SPAWN_FDS);
    close(status[1]);
    if (told < 0) {
        close(status[0]);
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot start %s", s->path);
    }
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) {
        set_up_child(s, parent);
        int err = errno;
        ssize_t n = write(told, &err, sizeof err);
        _exit(n < 0 ? 126 : 127);
    }
    int fork_err = errno;
    close(told);
    int err = 0;
    bool failed = child > 0 && fy_read_all(status[0], &err, sizeof err) == 0;
    close(status[0]);
    if (child < 0)
        return fy_fail_errno(e, FY_ERESOURCE, fork_err, "cannot start %s", s->path);
    int pfd = failed ? -1 : (int)syscall(SYS_pidfd_open, child, 0);
    if (pfd < 0) {
        if (!failed) {
            err = errno;
            kill(child, SIGKILL);
        }
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            continue;
        return fy_fail_errno(
            e, err == ENOENT ? FY_EUNSUPPORTED : FY_ERESOURCE, err,
            "cannot start %s (is it installed next to ferryd? --libexec names another folder)", s->path);
    }
    *pid = child;
    *pidfd = pfd;
    return 0;
}

uint64_t fyd_start_time(pid_t pid)
{
    char path[64];
    char *buf = NULL;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    char text[1024];
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    /* The name in parentheses may hold anything; fields are counted from the last one. */
    buf = strrchr(text, ')');
    if (!buf)
        return 0;
    char *save = NULL;
    char *word = strtok_r(buf + 1, " ", &save);
    for (int field = 3; word && field < 22; field++)
        word = strtok_r(NULL, " ", &save);
    return word ? strtoull(word, NULL, 10) : 0;
}

int fyd_pidfd(pid_t pid, uint64_t start, struct fy_err *e)
{
    int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (fd < 0)
        return fy_fail(e, FY_ENOTFOUND, "no process %d", (int)pid);
    /* After the open, so that it is this process's and not a successor's. */
    if (start && fyd_start_time(pid) != start) {
        close(fd);
        return fy_fail(e, FY_ENOTFOUND, "process %d is another one by now", (int)pid);
    }
    return fd;
}

void fyd_kill(int pidfd)
{
    if (pidfd >= 0)
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

bool fyd_reap(int pidfd, char *how, unsigned room, bool *clean)
{
    siginfo_t si = {0};
    *clean = false;
    if (waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED | WNOHANG) < 0) {
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        if (poll(&p, 1, 0) != 1)
            return false;
        snprintf(how, room, "ended");
        return true;
    }
    if (si.si_pid == 0)
        return false;
    if (si.si_code == CLD_EXITED) {
        snprintf(how, room, "exited with status %d", si.si_status);
        *clean = si.si_status == 0;
    } else {
        snprintf(how, room, "was ended by signal %d (%s)", si.si_status, strsignal(si.si_status));
    }
    return true;
}

void fyd_boot_id(char out[40])
{
    memset(out, 0, 40);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (read(fd, out, 36) != 36)
        out[0] = 0;
    close(fd);
}
