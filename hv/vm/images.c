// SPDX-License-Identifier: Apache-2.0
#include "hv/vm/images.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "proto/wire.h"

static uint64_t initrd_at(const Ferry__BootImages *b)
{
    return FY_ALIGN_UP(b->kernel_bytes, FY_PAGE_SIZE);
}

void fy_images_check(const Ferry__Machine *d, struct fy_err *why)
{
    const Ferry__BootImages *b = d->images;
    if (d->revision < 2)
        fy_reason_add(why, FY_EREFUSED, "machine revision %u keeps no boot images", d->revision);
    if (b->area_bytes == 0 || b->area_bytes % (2u << 20) || b->area_bytes > FY_IMAGES_AREA_MAX)
        fy_reason_add(why, FY_EREFUSED, "boot images in %llu bytes: a multiple of 2 MiB, at most %llu MiB",
                      (unsigned long long)b->area_bytes, FY_IMAGES_AREA_MAX >> 20);
    else if (b->kernel_bytes == 0 || b->kernel_bytes > b->area_bytes ||
             b->initrd_bytes > b->area_bytes - initrd_at(b))
        fy_reason_add(why, FY_EREFUSED,
                      "a kernel of %llu bytes and an initrd of %llu do not fit into their %llu bytes",
                      (unsigned long long)b->kernel_bytes, (unsigned long long)b->initrd_bytes,
                      (unsigned long long)b->area_bytes);
}

uint64_t fy_images_area(const Ferry__Machine *d)
{
    return d->images ? d->images->area_bytes : 0;
}

static int keep(struct fy_machine *m, int fd, const char *what, uint64_t at, uint64_t bytes, struct fy_err *e)
{
    struct stat st;
    uint8_t *p = fy_gmem_images(m->gmem, at, bytes);
    if (fd < 0)
        return fy_fail(e, FY_EUSAGE, "the description names a %s and none was given", what);
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != bytes)
        return fy_fail(e, FY_ECORRUPT, "the %s has %lld bytes, the description says %llu", what,
                       (long long)st.st_size, (unsigned long long)bytes);
    if (!p || fy_pread_all(fd, p, bytes, 0) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "the %s cannot be read", what);
    fy_gmem_images_mark(m->gmem, at, bytes);
    return 0;
}

int fy_images_keep(struct fy_machine *m, struct fy_err *e)
{
    const Ferry__BootImages *b = m->desc->images;
    if (keep(m, m->kernel_fd, "kernel", 0, b->kernel_bytes, e) < 0 ||
        (b->initrd_bytes && keep(m, m->initrd_fd, "initrd", initrd_at(b), b->initrd_bytes, e) < 0))
        return -1;
    fy_close(&m->kernel_fd);
    fy_close(&m->initrd_fd);
    return 0;
}

static int map_file(int fd, const char *what, const uint8_t **p, size_t *len, struct fy_err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "%s", what);
    if (!S_ISREG(st.st_mode) || st.st_size <= 0)
        return fy_fail(e, FY_ECORRUPT, "%s: not a file with something in it", what);
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot map the %s", what);
    *p = map;
    *len = (size_t)st.st_size;
    return 0;
}

static int open_kept(struct fy_machine *m, struct fy_images *im, struct fy_err *e)
{
    const Ferry__BootImages *b = m->desc->images;
    const uint8_t *kernel = fy_gmem_images(m->gmem, 0, b->kernel_bytes);
    /* The worker by which the guest came has the area too, writable, until it ends. */
    void *copy = mmap(NULL, b->kernel_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!kernel || copy == MAP_FAILED)
        return fy_fail(e, FY_ERESOURCE, "no memory to load a kernel of %llu bytes",
                       (unsigned long long)b->kernel_bytes);
    memcpy(copy, kernel, b->kernel_bytes);
    im->kernel = copy;
    im->kernel_len = b->kernel_bytes;
    im->kept = true;
    im->initrd_len = b->initrd_bytes;
    im->initrd = b->initrd_bytes ? fy_gmem_images(m->gmem, initrd_at(b), b->initrd_bytes) : NULL;
    return 0;
}

int fy_images_open(struct fy_machine *m, struct fy_images *im, struct fy_err *e)
{
    memset(im, 0, sizeof *im);
    if (m->desc->images)
        return open_kept(m, im, e);
    if (map_file(m->kernel_fd, "kernel", &im->kernel, &im->kernel_len, e) < 0)
        return -1;
    return m->initrd_fd >= 0 ? map_file(m->initrd_fd, "initrd", &im->initrd, &im->initrd_len, e) : 0;
}

void fy_images_close(struct fy_images *im)
{
    if (im->kernel)
        munmap((void *)(uintptr_t)im->kernel, im->kernel_len);
    if (im->initrd && !im->kept)
        munmap((void *)(uintptr_t)im->initrd, im->initrd_len);
}
