// SPDX-License-Identifier: Apache-2.0
/* Each layer by trying what it forbids, in a child that has nothing else to lose. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/sandbox/sandbox.h"

#define USER 0x66123456u
#define NOT_HERE 77

/* Run fn in a child; its exit status. */
static int in_child(int (*fn)(void))
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(fn());
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect(int (*fn)(void), const char *what)
{
    int r = in_child(fn);
    if (r == NOT_HERE)
        print_message("skipped: this host has no %s\n", what);
    else
        assert_int_equal(r, 0);
}

static uint32_t enter(uid_t uid)
{
    struct fy_err e;
    uint32_t layers;
    const struct fy_sandbox_wants wants = {.uid = uid};
    if (fy_sandbox_process(&wants, &layers, &e) < 0)
        _exit(99);
    return layers;
}

static int try_user(void)
{
    if (!(enter(USER) & FY_SANDBOX_UID))
        return NOT_HERE;
    if (getuid() != USER || geteuid() != USER || getegid() != USER)
        return 1;
    if (setuid(0) == 0 || kill(getppid(), 0) == 0)
        return 2;
    return 0;
}

static int try_root(void)
{
    if (!(enter(USER) & FY_SANDBOX_ROOT))
        return NOT_HERE;
    if (access("/etc/passwd", F_OK) == 0 || access("/proc/self", F_OK) == 0 || access("/tmp", F_OK) == 0)
        return 1;
    if (open("/made", O_CREAT | O_WRONLY, 0600) >= 0)
        return 2;
    return 0;
}

static int try_privileges(void)
{
    if (!(enter(0) & FY_SANDBOX_NO_PRIVS))
        return NOT_HERE;
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 1;
}

static int try_files(void)
{
    int before = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    char byte;
    if (!(enter(0) & FY_SANDBOX_FILES))
        return NOT_HERE;
    if (open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES)
        return 1;
    if (mkdir("/tmp/ferry-test-made", 0700) == 0)
        return 2;
    /* what was open stays so */
    return read(before, &byte, 1) == 1 ? 0 : 3;
}

static int denied(long r)
{
    return r < 0 && errno == EPERM ? 0 : 1;
}

static int try_main_calls(void)
{
    if (!fy_sandbox_thread(FY_SANDBOX_MAIN))
        return NOT_HERE;
    char *const argv[] = {(char *)(uintptr_t) "true", NULL};
    if (denied(socket(AF_INET, SOCK_STREAM, 0)) || denied(execv("/bin/true", argv)))
        return 1;
    if (denied(syscall(SYS_fork)) || denied(syscall(SYS_ptrace, 0, 0, 0, 0)) ||
        denied(syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY)))
        return 2;
    /* what it needs works */
    int fd = memfd_create("x", MFD_CLOEXEC);
    return fd >= 0 && ftruncate(fd, 4096) == 0 ? 0 : 3;
}

static void *thread_does_nothing(void *arg)
{
    return arg;
}

static int try_threads(void)
{
    pthread_t t;
    if (!fy_sandbox_thread(FY_SANDBOX_MAIN))
        return NOT_HERE;
    if (pthread_create(&t, NULL, thread_does_nothing, NULL) || pthread_join(t, NULL))
        return 1;
    return denied(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
}

static int try_io_calls(void)
{
    if (!fy_sandbox_thread(FY_SANDBOX_IO))
        return NOT_HERE;
    return denied(memfd_create("x", MFD_CLOEXEC)) || denied(syscall(SYS_kill, getpid(), 0));
}

static int try_vcpu_calls(void)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0 || !fy_sandbox_thread(FY_SANDBOX_VCPU))
        return NOT_HERE;
    char byte;
    if (denied(recv(pair[0], &byte, 1, MSG_DONTWAIT)) || denied(memfd_create("x", MFD_CLOEXEC)) ||
        denied(syscall(SYS_clone, CLONE_VM | CLONE_THREAD | CLONE_SIGHAND, 0, 0, 0, 0)))
        return 1;
    return send(pair[0], "x", 1, 0) == 1 ? 0 : 2;
}

static int try_worker(void)
{
    struct fy_err e;
    uint32_t layers;
    const struct fy_sandbox_wants wants = {.uid = USER, .connect = true};
    if (fy_sandbox_process(&wants, &layers, &e) < 0)
        return 1;
    if (!(layers & FY_SANDBOX_FILES) || !fy_sandbox_thread(FY_SANDBOX_WORKER))
        return NOT_HERE;
    char *const argv[] = {(char *)(uintptr_t) "true", NULL};
    if (open("/proc/self/status", O_RDONLY | O_CLOEXEC) >= 0 || open("/tmp", O_RDONLY | O_CLOEXEC) >= 0)
        return 2;
    if (open("/etc/hosts", O_RDONLY | O_CLOEXEC) < 0 || socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0)
        return 3;
    return denied(execv("/bin/true", argv)) || denied(syscall(SYS_fork));
}

static void test_user(void **state)
{
    (void)state;
    expect(try_user, "right to change users (run as root)");
}

static void test_root(void **state)
{
    (void)state;
    expect(try_root, "right to change the root folder (run as root)");
}

static void test_privileges(void **state)
{
    (void)state;
    expect(try_privileges, "no_new_privs");
}

static void test_files(void **state)
{
    (void)state;
    expect(try_files, "Landlock");
}

static void test_calls(void **state)
{
    (void)state;
    expect(try_main_calls, "seccomp (or this is a sanitizer's build)");
    expect(try_threads, "seccomp (or this is a sanitizer's build)");
    expect(try_io_calls, "seccomp (or this is a sanitizer's build)");
    expect(try_vcpu_calls, "seccomp (or this is a sanitizer's build)");
}

static void test_worker(void **state)
{
    (void)state;
    expect(try_worker, "Landlock or seccomp (or this is a sanitizer's build)");
}

static void test_text(void **state)
{
    (void)state;
    char buf[FY_SANDBOX_TEXT];
    assert_string_equal(fy_sandbox_text(FY_SANDBOX_ALL, buf), "user, root, no-new-privs, files, calls");
    assert_string_equal(fy_sandbox_text(FY_SANDBOX_FILES, buf), "files");
    assert_string_equal(fy_sandbox_text(0, buf), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_user),   cmocka_unit_test(test_root),  cmocka_unit_test(test_privileges),
        cmocka_unit_test(test_files),  cmocka_unit_test(test_calls), cmocka_unit_test(test_text),
        cmocka_unit_test(test_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
