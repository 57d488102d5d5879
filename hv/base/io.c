// SPDX-License-Identifier: Apache-2.0
#include "hv/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

int fy_read_all(int fd, void *buf, size_t len)
{
    char *p = buf;
    while (len) {
        ssize_t n = read(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0) {
            errno = ENODATA;
            return -1;
        }
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int fy_write_all(int fd, const void *buf, size_t len)
{
    const char *p = buf;
    while (len) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int fy_pread_all(int fd, void *buf, size_t len, off_t offset)
{
    char *p = buf;
    while (len) {
        ssize_t n = pread(fd, p, len, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0) {
            errno = ENODATA;
            return -1;
        }
        p += n;
        offset += n;
        len -= (size_t)n;
    }
    return 0;
}

int fy_pwrite_all(int fd, const void *buf, size_t len, off_t offset)
{
    const char *p = buf;
    while (len) {
        ssize_t n = pwrite(fd, p, len, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        p += n;
        offset += n;
        len -= (size_t)n;
    }
    return 0;
}

int fy_read_file(int dirfd, const char *path, size_t limit, char **buf, size_t *len, struct fy_err *e)
{
    int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fy_fail_errno(e, errno == ENOENT ? FY_ENOTFOUND : FY_EFAIL, errno, "cannot open %s", path);
    struct stat st;
    char *p = NULL;
    int rc = -1;
    if (fstat(fd, &st) < 0) {
        fy_fail_errno(e, FY_EFAIL, errno, "cannot stat %s", path);
    } else if (st.st_size < 0 || (size_t)st.st_size > limit) {
        fy_fail(e, FY_ECORRUPT, "%s has %lld bytes; at most %zu are allowed", path, (long long)st.st_size,
                limit);
    } else if (!(p = malloc((size_t)st.st_size + 1))) {
        fy_fail(e, FY_ERESOURCE, "no memory for %s", path);
    } else if (fy_read_all(fd, p, (size_t)st.st_size) < 0) {
        fy_fail_errno(e, FY_EFAIL, errno, "cannot read %s", path);
    } else {
        p[st.st_size] = 0;
        *buf = p;
        *len = (size_t)st.st_size;
        p = NULL;
        rc = 0;
    }
    free(p);
    close(fd);
    return rc;
}

int fy_write_file_durable(int dirfd, const char *name, const void *buf, size_t len, mode_t mode,
                          struct fy_err *e)
{
    char tmp[256];
    if ((size_t)snprintf(tmp, sizeof tmp, ".%s.%d.tmp", name, (int)getpid()) >= sizeof tmp)
        return fy_fail(e, FY_EUSAGE, "file name too long: %s", name);
    int fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot create %s", tmp);
    int rc = fy_write_all(fd, buf, len);
    if (rc == 0)
        rc = fsync(fd);
    int err = errno;
    close(fd);
    if (rc == 0 && (rc = renameat(dirfd, tmp, dirfd, name)) < 0)
        err = errno;
    if (rc < 0) {
        unlinkat(dirfd, tmp, 0);
        return fy_fail_errno(e, FY_ERESOURCE, err, "cannot write %s", name);
    }
    int dfd = dirfd == AT_FDCWD ? open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : fy_dup(dirfd);
    if (dfd < 0 || fsync(dfd) < 0)
        rc = fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make %s durable", name);
    fy_close(&dfd);
    return rc;
}

void fy_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

int fy_dup(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

int fy_set_cloexec(int fd, bool on)
{
    return fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0);
}

void fy_random(void *buf, size_t len)
{
    char *p = buf;
    while (len) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0)
            continue;
        p += n;
        len -= (size_t)n;
    }
}

#define LARGE_PAGE (2ull << 20)

void *fy_map_large(int fd, uint64_t bytes, int prot)
{
    char *room =
        mmap(NULL, bytes + LARGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    char *at = room + (LARGE_PAGE - (uintptr_t)room % LARGE_PAGE) % LARGE_PAGE;
    void *p = mmap(at, bytes, prot, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
    if (p == MAP_FAILED) {
        int err = errno;
        munmap(room, bytes + LARGE_PAGE);
        errno = err;
        return MAP_FAILED;
    }
    if (at > room)
        munmap(room, (size_t)(at - room));
    munmap(at + bytes, (size_t)(room + LARGE_PAGE - at));
    return p;
}
