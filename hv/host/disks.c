// SPDX-License-Identifier: Apache-2.0
#include "hv/host/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/fault.h"
#include "hv/base/io.h"
#include "hv/host/blk.h"

#define QUEUES_DEFAULT_MAX 8u
#define HOLD_DEFAULT_S 60u

/* Where a file is: a folder's descriptor (the caller closes it; AT_FDCWD: none) and a name in it. */
struct place {
    int dir;
    const char *name;
    bool nofollow;
};

/* The folder of `path` under `root`, on the way to which no link and no ".." leads out of root. */
static int folder_under(const char *root, const char *path, size_t dir_len, struct place *p)
{
    size_t n = strlen(root);
    char rest[PATH_MAX] = ".";
    while (n > 1 && root[n - 1] == '/')
        n--;
    if (strncmp(path, root, n) != 0 || path[n] != '/' || dir_len < n)
        return -1;
    if (dir_len > n + 1)
        snprintf(rest, sizeof rest, "%.*s", (int)(dir_len - n - 1), path + n + 1);
    int top = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (top < 0)
        return -1;
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    p->dir = (int)syscall(SYS_openat2, top, rest, &how, sizeof how);
    int err = errno;
    fy_close(&top);
    errno = err;
    return p->dir < 0 ? -1 : 0;
}

static int find(const struct fyd *d, const char *disk, const char *source, bool incoming, struct place *p,
                struct fy_err *e)
{
    const char *slash = strrchr(source, '/');
    if (source[0] != '/' || strlen(source) >= PATH_MAX || !slash[1])
        return fy_fail(e, FY_EUSAGE, "disk %.20s: its file is to be named by an absolute path", disk);
    if (!incoming) {
        *p = (struct place){.dir = AT_FDCWD, .name = source};
        return 0;
    }
    *p = (struct place){.dir = -1, .name = slash + 1, .nofollow = true};
    for (unsigned i = 0; i < d->disk_folder_count; i++)
        if (folder_under(d->disk_folders[i], source, (size_t)(slash - source), p) == 0)
            return 0;
    return fy_fail(e, FY_EREFUSED,
                   "disk %.20s: %s lies in no folder here that incoming guests' disks may be in (%s%s; see "
                   "ferryd --disks)",
                   disk, source, d->disk_folders[0], d->disk_folder_count > 1 ? " and others" : "");
}

static void found(struct place *p)
{
    if (p->dir >= 0)
        fy_close(&p->dir);
}

static int look(const struct place *p, const Ferry__Disk *k, struct stat *st, struct fy_err *e)
{
    if (fstatat(p->dir, p->name, st, p->nofollow ? AT_SYMLINK_NOFOLLOW : 0) < 0)
        return fy_fail_errno(e, errno == ENOENT ? FY_ENOTFOUND : FY_EFAIL, errno, "disk %.20s: %s", k->name,
                             k->source);
    if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
        return fy_fail(e, FY_EUSAGE, "disk %.20s: %s is neither a file nor a block device", k->name,
                       k->source);
    return 0;
}

int fyd_disk_look(const struct fyd *d, const Ferry__Disk *k, struct fy_err *e)
{
    struct place p;
    struct stat st;
    if (fyd_disk_served(k) && fyd_blk_may(d, k, true, e) < 0)
        return -1;
    if (fyd_disk_is_nbd(k))
        return 0; /* its server is asked when the guest is to run */
    if (find(d, k->name, k->source, true, &p, e) < 0)
        return -1;
    int r = look(&p, k, &st, e);
    if (r == 0 && fyd_disk_served(k)) {
        found(&p);
        return 0; /* its size is inside of it */
    }
    /* A block device tells its size only to who opens it. */
    if (r == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size != k->bytes)
        r = fy_fail(e, FY_EREFUSED, "disk %.20s: %s has %lld bytes here, %llu at the source", k->name,
                    k->source, (long long)st.st_size, (unsigned long long)k->bytes);
    found(&p);
    return r;
}

static int open_one(const struct fyd *d, const Ferry__Disk *k, bool incoming, struct fy_err *e)
{
    struct place p;
    struct stat st;
    bool direct = !strcmp(k->cache, "none") && !fyd_disk_served(k);
    if (fy_fault_hit(FY_FAULT_TD_DISKS_OPEN) && incoming)
        return fy_fail(e, FY_EFAIL, "disk %.20s: %s cannot be opened (fault point)", k->name, k->source);
    if (find(d, k->name, k->source, incoming, &p, e) < 0)
        return -1;
    int fd = look(&p, k, &st, e);
    if (fd == 0) {
        fd = openat(p.dir, p.name,
                    (k->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
                        (direct ? O_DIRECT : 0) | (p.nofollow ? O_NOFOLLOW : 0));
        if (fd < 0 && errno == EINVAL && direct)
            fy_fail(e, FY_EUNSUPPORTED,
                    "disk %.20s: %s: its file system has no access past the cache (cache=writeback has)",
                    k->name, k->source);
        else if (fd < 0)
            fy_fail_errno(e, FY_EFAIL, errno, "disk %.20s: cannot open %s%s", k->name, k->source,
                          k->read_only ? "" : " for writing");
    }
    found(&p);
    return fd;
}

int fyd_disk_open(const struct fyd *d, const Ferry__Disk *k, bool incoming, struct fy_err *e)
{
    return open_one(d, k, incoming, e);
}

int fyd_disk_connect(const struct fyd *d, const char *disk, const char *path, bool incoming, struct fy_err *e)
{
    struct place p;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (find(d, disk, path, incoming, &p, e) < 0)
        return -1;
    /* By way of its folder: the path may be longer than an address, and no link is to lead astray. */
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    int dir = p.dir >= 0 ? p.dir : open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int n = snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%s", dir, slash + 1);
    struct stat st;
    if (dir < 0 || fstatat(dir, slash + 1, &st, incoming ? AT_SYMLINK_NOFOLLOW : 0) < 0)
        fy_fail_errno(e, errno == ENOENT ? FY_ENOTFOUND : FY_EFAIL, errno, "%s", path);
    else if (!S_ISSOCK(st.st_mode) || n >= (int)sizeof a.sun_path)
        fy_fail(e, FY_EUSAGE, "%s is no socket, or its name is too long", path);
    else if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        n = -1;
    else
        fy_fail_errno(e, FY_EUNREACHABLE, errno, "nobody answers at %s", path);
    if (n >= 0)
        fy_close(&fd);
    fy_close(&dir);
    return fd;
}

int fyd_disks_open(const struct fyd *d, const Ferry__Machine *m, bool incoming, int *fds, struct fy_err *e)
{
    for (unsigned i = 0; i < FYD_DISKS_MAX; i++)
        fds[i] = -1;
    if (m->n_disks > FYD_DISKS_MAX)
        return fy_fail(e, FY_EUSAGE, "a guest has at most %d disks", FYD_DISKS_MAX);
    for (size_t i = 0; i < m->n_disks; i++) {
        if (fyd_disk_served(m->disks[i])) {
            if (fyd_blk_may(d, m->disks[i], incoming, e) == 0)
                continue;
            fyd_disks_close(fds);
            return -1;
        }
        fds[i] = open_one(d, m->disks[i], incoming, e);
        if (fds[i] < 0) {
            fyd_disks_close(fds);
            return -1;
        }
    }
    return 0;
}

void fyd_disks_close(int *fds)
{
    for (unsigned i = 0; i < FYD_DISKS_MAX; i++)
        fy_close(&fds[i]);
}

static int fill(char **field, const char *value)
{
    if (**field)
        return 0;
    char *copy = strdup(value);
    if (!copy)
        return -1;
    *field = copy; /* what was there is protobuf-c's constant for nothing */
    return 0;
}

int fyd_disks_complete(Ferry__Machine *m, const int *fds, struct fy_err *e)
{
    for (size_t i = 0; i < m->n_disks; i++) {
        Ferry__Disk *k = m->disks[i];
        char name[32];
        snprintf(name, sizeof name, "disk%zu", i);
        if (fill(&k->name, name) < 0 || fill(&k->format, "raw") < 0 || fill(&k->cache, "writeback") < 0)
            return fy_fail(e, FY_ERESOURCE, "no memory for the description of disks");
        if (!k->queues)
            k->queues = FY_MIN(m->vcpus, QUEUES_DEFAULT_MAX);
        if (fyd_disk_served(k)) {
            if (!k->hold_s)
                k->hold_s = HOLD_DEFAULT_S;
            continue; /* fyd_blk_measure has asked */
        }
        off_t end = lseek(fds[i], 0, SEEK_END);
        if (end < 0)
            return fy_fail_errno(e, FY_EFAIL, errno, "disk %.20s: the size of %s", k->name, k->source);
        k->bytes = (uint64_t)end;
    }
    return 0;
}
