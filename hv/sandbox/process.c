// SPDX-License-Identifier: Apache-2.0
/* The layers of the whole process: user, root folder, privileges, Landlock (Linux
 * Documentation/userspace-api/landlock.rst). */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/sandbox/sandbox.h"

/* The kernel's, spelt out: the headers here may be older than the kernel. */
#define LANDLOCK_CREATE_RULESET 444
#define LANDLOCK_ADD_RULE 445
#define LANDLOCK_RESTRICT_SELF 446
#define RULE_PATH_BENEATH 1
#define FS_READ_FILE (1u << 2)
#define FS_READ_DIR (1u << 3)
#define NET_BIND 1u
#define NET_CONNECT 2u
#define SCOPE_SOCKETS 1u
#define SCOPE_SIGNALS 2u
#define LANDLOCK_VERSION 1u
struct landlock_attr {
    uint64_t handled_access_fs;
    uint64_t handled_access_net; /* ABI 4: bind, connect of TCP */
    uint64_t scoped;             /* ABI 6: abstract sockets, signals */
};

static uint64_t file_rights(long abi)
{
    /* one right more with ABI 2 (refer), 3 (truncate) and 5 (ioctl on devices) */
    unsigned bits = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5);
    return (1ull << bits) - 1;
}

/* Reading below a folder stays possible. */
static void allow_reading(int ruleset, const char *path)
{
    struct {
        uint64_t allowed_access;
        int32_t parent_fd;
    } __attribute__((packed)) rule = {.allowed_access = FS_READ_FILE | FS_READ_DIR};
    rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
    if (rule.parent_fd < 0)
        return; /* not there: nothing to read */
    syscall(LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, &rule, 0);
    close(rule.parent_fd);
}

/* Handle every right and grant none, but for reading what the resolver needs. */
static bool landlock(bool connects, bool listens)
{
    static const char *const resolver[] = {"/etc", "/lib", "/lib64", "/usr/lib", "/run/systemd/resolve"};
    long abi = syscall(LANDLOCK_CREATE_RULESET, NULL, (size_t)0, LANDLOCK_VERSION);
    if (abi < 1) {
        fy_info("this kernel has no Landlock: files are kept from this process by its user alone");
        return false;
    }
    struct landlock_attr a = {.handled_access_fs = file_rights(abi)};
    size_t size = abi >= 6 ? sizeof a : abi >= 4 ? 16 : 8;
    a.handled_access_net = (listens ? 0 : NET_BIND) | (connects ? 0 : NET_CONNECT);
    a.scoped = SCOPE_SOCKETS | SCOPE_SIGNALS;
    int fd = (int)syscall(LANDLOCK_CREATE_RULESET, &a, size, 0);
    for (size_t i = 0; connects && fd >= 0 && i < FY_ARRAY_LEN(resolver); i++)
        allow_reading(fd, resolver[i]);
    bool on = fd >= 0 && syscall(LANDLOCK_RESTRICT_SELF, fd, 0) == 0;
    if (!on)
        fy_warn("Landlock refuses its rules: %s", strerror(errno));
    fy_close(&fd);
    return on;
}

/* "/" becomes a folder without a name: nobody can put anything there. */
static bool empty_root(void)
{
    char path[] = "/tmp/ferry-root-XXXXXX";
    if (!mkdtemp(path)) {
        fy_info("no empty root folder: %s", strerror(errno));
        return false;
    }
    int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool on = chroot(path) == 0 && chdir("/") == 0;
    if (tmp >= 0)
        unlinkat(tmp, path + strlen("/tmp/"), AT_REMOVEDIR);
    fy_close(&tmp);
    return on;
}

static int become(const struct fy_sandbox_wants *w, uint32_t *layers, struct fy_err *e)
{
    /* The resolver's files are under the real root. */
    if (!w->connect && empty_root())
        *layers |= FY_SANDBOX_ROOT;
    int with_parent = 0;
    pid_t parent = getppid();
    prctl(PR_GET_PDEATHSIG, &with_parent);
    if (setgroups(0, NULL) < 0 || setresgid(w->uid, w->uid, w->uid) < 0 ||
        setresuid(w->uid, w->uid, w->uid) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "cannot become user %u", (unsigned)w->uid);
    *layers |= FY_SANDBOX_UID;
    /* The kernel forgets it with the user. */
    if (with_parent && (prctl(PR_SET_PDEATHSIG, with_parent) < 0 || getppid() != parent))
        return fy_fail(e, FY_EFAIL, "the process that started this one is gone");
    return 0;
}

int fy_sandbox_process(const struct fy_sandbox_wants *w, uint32_t *layers, struct fy_err *e)
{
    *layers = 0;
    if (w->uid && geteuid() == 0 && become(w, layers, e) < 0)
        return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        *layers |= FY_SANDBOX_NO_PRIVS;
    if (*layers & FY_SANDBOX_NO_PRIVS && landlock(w->connect, w->listen))
        *layers |= FY_SANDBOX_FILES;
    return 0;
}

uint32_t fy_sandbox_possible(void)
{
    uint32_t layers = FY_SANDBOX_NO_PRIVS;
    if (geteuid() == 0)
        layers |= FY_SANDBOX_UID | FY_SANDBOX_ROOT;
    if (syscall(LANDLOCK_CREATE_RULESET, NULL, (size_t)0, LANDLOCK_VERSION) >= 1)
        layers |= FY_SANDBOX_FILES;
    if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0)
        layers |= FY_SANDBOX_CALLS;
    return layers;
}

const char *fy_sandbox_text(uint32_t layers, char *buf)
{
    static const char *const names[] = {"user", "root", "no-new-privs", "files", "calls"};
    size_t n = 0;
    buf[0] = 0;
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        if (layers >> i & 1)
            n += (size_t)snprintf(buf + n, FY_SANDBOX_TEXT - n, "%s%s", n ? ", " : "", names[i]);
    return buf;
}
