// SPDX-License-Identifier: Apache-2.0
#include "hv/mem/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define SLOT_UNIT (2ull << 20)
#define HUGE_PAGE (2ull << 20)
#define BYTES_MAX (1ull << 40)
#define PREALLOC_CHUNK (64ull << 20)
#define PREALLOC_THREADS 64

unsigned fy_gmem_layout(uint64_t bytes, struct fy_slot slots[FY_SLOTS_MAX])
{
    memset(slots, 0, sizeof *slots * FY_SLOTS_MAX);
    slots[0].bytes = FY_MIN(bytes, FY_HOLE_START);
    if (bytes <= FY_HOLE_START)
        return 1;
    slots[1].gpa = FY_HOLE_END;
    slots[1].bytes = bytes - FY_HOLE_START;
    slots[1].offset = FY_HOLE_START;
    return 2;
}

static int check_fd(int fd, uint64_t bytes, struct fy_err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "guest memory");
    if ((uint64_t)st.st_size != bytes)
        return fy_fail(e, FY_EUSAGE, "guest memory's file has %llu bytes, the machine %llu",
                       (unsigned long long)st.st_size, (unsigned long long)bytes);
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return fy_fail(e, FY_EUSAGE, "guest memory's file is not sealed against shrinking");
    return 0;
}

static const struct fy_slot *add_area(struct fy_gmem *m, uint64_t gpa, uint64_t bytes, uint64_t offset)
{
    if (!bytes)
        return NULL;
    struct fy_slot *s = &m->slots[m->slot_count++];
    *s = (struct fy_slot){.gpa = gpa, .bytes = bytes, .offset = offset};
    return s;
}

struct fy_gmem *fy_gmem_open(int fd, int ro_fd, uint64_t bytes, bool hugepages, struct fy_err *e)
{
    return fy_gmem_open_area(fd, ro_fd, bytes, 0, 0, hugepages, e);
}

struct fy_gmem *fy_gmem_open_area(int fd, int ro_fd, uint64_t ram, uint64_t area, uint64_t images,
                                  bool hugepages, struct fy_err *e)
{
    struct fy_gmem *m = NULL;
    if (ram == 0 || ram % SLOT_UNIT || ram > BYTES_MAX) {
        fy_fail(e, FY_EUSAGE, "guest memory of %llu bytes: must be a multiple of 2 MiB, at most 1 TiB",
                (unsigned long long)ram);
        goto fail;
    }
    if (area % SLOT_UNIT || area > FY_FIRMWARE_MAX) {
        fy_fail(e, FY_EUSAGE, "a firmware area of %llu bytes: must be a multiple of 2 MiB, at most %llu",
                (unsigned long long)area, FY_FIRMWARE_MAX);
        goto fail;
    }
    if (images % SLOT_UNIT || images > FY_IMAGES_MAX) {
        fy_fail(e, FY_EUSAGE, "boot images of %llu bytes: must be a multiple of 2 MiB, at most %llu",
                (unsigned long long)images, FY_IMAGES_MAX);
        goto fail;
    }
    uint64_t bytes = ram + area + images;
    if (check_fd(fd, bytes, e) < 0)
        goto fail;
    m = calloc(1, sizeof *m);
    if (!m) {
        fy_fail(e, FY_ERESOURCE, "no memory for guest memory's description");
        goto fail;
    }
    void *p = fy_map_large(fd, bytes, PROT_READ | PROT_WRITE);
    if (p == MAP_FAILED) {
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot map %llu bytes of guest memory",
                      (unsigned long long)bytes);
        goto fail;
    }
    /* A core file with the guest's memory in it would be a leak of its secrets. */
    madvise(p, bytes, MADV_DONTDUMP);
    m->fd = fd;
    m->ro_fd = ro_fd;
    m->bytes = bytes;
    m->host = p;
    m->hugepages = hugepages;
    m->slot_count = fy_gmem_layout(ram, m->slots);
    m->ram_slots = m->slot_count;
    m->area = add_area(m, FY_HOLE_END - area, area, ram);
    m->images = add_area(m, FY_IMAGES_GPA, images, ram + area);
    for (unsigned i = 0; i < m->slot_count; i++)
        m->slots[i].host = m->host + m->slots[i].offset;
    return m;
fail:
    free(m);
    fy_close(&fd);
    fy_close(&ro_fd);
    return NULL;
}

void fy_gmem_free(struct fy_gmem *m)
{
    if (!m)
        return;
    munmap(m->host, m->bytes);
    fy_close(&m->fd);
    fy_close(&m->ro_fd);
    free(m);
}

struct prealloc {
    struct fy_gmem *m;
    uint64_t next;  /* atomic: first byte that no thread has claimed */
    int err;        /* atomic: errno of the first failure */
    bool small;     /* atomic: the kernel gives no large pages here */
    uint64_t large; /* atomic: bytes that it gave */
};

/* Touch one large page's worth. Asked for by MADV_COLLAPSE, which unlike a fault needs no system-wide setting
 * and gives 2 MiB pages to a memfd: the guest's TLB misses and the workers' page lookups become rare. */
static bool touch_large(struct prealloc *p, uint8_t *at)
{
    __atomic_fetch_or(at, 0, __ATOMIC_RELAXED); /* it needs one page to be there */
    if (madvise(at, HUGE_PAGE, MADV_COLLAPSE) == 0)
        return true;
    if (errno == EINVAL)
        __atomic_store_n(&p->small, true, __ATOMIC_RELAXED);
    return false;
}

static int touch(struct prealloc *p, uint8_t *at, uint64_t len)
{
    int r;
    if (!p->m->hugepages)
        while (len && !__atomic_load_n(&p->small, __ATOMIC_RELAXED) && touch_large(p, at)) {
            __atomic_fetch_add(&p->large, HUGE_PAGE, __ATOMIC_RELAXED);
            at += HUGE_PAGE;
            len -= HUGE_PAGE;
        }
    do
        r = len ? madvise(at, len, MADV_POPULATE_WRITE) : 0;
    while (r < 0 && (errno == EINTR || errno == EAGAIN));
    return r < 0 ? errno : 0;
}

static void *prealloc_main(void *arg)
{
    struct prealloc *p = arg;
    while (!__atomic_load_n(&p->err, __ATOMIC_RELAXED)) {
        uint64_t at = __atomic_fetch_add(&p->next, PREALLOC_CHUNK, __ATOMIC_RELAXED);
        if (at >= p->m->bytes)
            break;
        uint64_t len = FY_MIN(PREALLOC_CHUNK, p->m->bytes - at);
        int err = touch(p, p->m->host + at, len);
        if (err)
            __atomic_store_n(&p->err, err, __ATOMIC_RELAXED);
    }
    return NULL;
}

int fy_gmem_prealloc(struct fy_gmem *m, unsigned threads, uint64_t *took_ns, struct fy_err *e)
{
    uint64_t start = fy_now_ns();
    struct prealloc p = {.m = m};
    pthread_t id[PREALLOC_THREADS];
    unsigned n = 0;
    threads = FY_MIN(FY_MAX(threads, 1u), (unsigned)PREALLOC_THREADS);
    while (n + 1 < threads && pthread_create(&id[n], NULL, prealloc_main, &p) == 0)
        n++;
    prealloc_main(&p);
    for (unsigned i = 0; i < n; i++)
        pthread_join(id[i], NULL);
    *took_ns = fy_now_ns() - start;
    m->large = !p.err && (m->hugepages || p.large == m->bytes);
    if (p.err)
        return fy_fail_errno(e, FY_ERESOURCE, p.err, "cannot touch all %llu bytes of guest memory",
                             (unsigned long long)m->bytes);
    return 0;
}

static const struct fy_slot *slot_of(const struct fy_gmem *m, uint64_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < m->ram_slots; i++) {
        const struct fy_slot *s = &m->slots[i];
        if (gpa >= s->gpa && fy_range_ok(gpa - s->gpa, len, s->bytes))
            return s;
    }
    return NULL;
}

uint8_t *fy_gmem_at(const struct fy_gmem *m, uint64_t gpa, uint64_t len)
{
    const struct fy_slot *s = slot_of(m, gpa, len);
    return s ? s->host + (gpa - s->gpa) : NULL;
}

static void mark(struct fy_gmem *m, uint64_t offset, uint64_t len)
{
    if (m->written)
        m->written(m->written_arg, offset, len);
    if (m->code_written)
        m->code_written(m->code_written_arg, offset, len);
}

void fy_gmem_mark(struct fy_gmem *m, uint64_t gpa, uint64_t len)
{
    const struct fy_slot *s = slot_of(m, gpa, len);
    if (s && len)
        mark(m, s->offset + (gpa - s->gpa), len);
}

static uint8_t *area_at(const struct fy_slot *s, uint64_t at, uint64_t len)
{
    return s && fy_range_ok(at, len, s->bytes) ? s->host + at : NULL;
}

static void area_mark(struct fy_gmem *m, const struct fy_slot *s, uint64_t at, uint64_t len)
{
    if (len && area_at(s, at, len))
        mark(m, s->offset + at, len);
}

uint8_t *fy_gmem_area(const struct fy_gmem *m, uint64_t at, uint64_t len)
{
    return area_at(m->area, at, len);
}

void fy_gmem_area_mark(struct fy_gmem *m, uint64_t at, uint64_t len)
{
    area_mark(m, m->area, at, len);
}

uint8_t *fy_gmem_images(const struct fy_gmem *m, uint64_t at, uint64_t len)
{
    return area_at(m->images, at, len);
}

void fy_gmem_images_mark(struct fy_gmem *m, uint64_t at, uint64_t len)
{
    area_mark(m, m->images, at, len);
}

int fy_gmem_add_rom(struct fy_gmem *m, uint64_t at, uint64_t bytes, struct fy_err *e)
{
    const struct fy_slot *s = m->area;
    if (!s || !bytes || !fy_range_ok(at, bytes, s->bytes) || (at | bytes) % FY_PAGE_SIZE ||
        m->rom_count == FY_ROMS_MAX)
        return fy_fail(e, FY_EUSAGE, "no ROM of %llu bytes at %#llx of the firmware area",
                       (unsigned long long)bytes, (unsigned long long)at);
    m->roms[m->rom_count++] =
        (struct fy_slot){.gpa = s->gpa + at, .bytes = bytes, .offset = s->offset + at, .host = s->host + at};
    return 0;
}

int fy_gmem_write(struct fy_gmem *m, uint64_t gpa, const void *buf, uint64_t len, struct fy_err *e)
{
    uint8_t *p = fy_gmem_at(m, gpa, len);
    if (!p)
        return fy_fail(e, FY_ECORRUPT, "write of %llu bytes at 0x%llx is outside of guest memory",
                       (unsigned long long)len, (unsigned long long)gpa);
    memcpy(p, buf, len);
    fy_gmem_mark(m, gpa, len);
    return 0;
}

int fy_gmem_read(const struct fy_gmem *m, uint64_t gpa, void *buf, uint64_t len, struct fy_err *e)
{
    const uint8_t *p = fy_gmem_at(m, gpa, len);
    if (!p)
        return fy_fail(e, FY_ECORRUPT, "read of %llu bytes at 0x%llx is outside of guest memory",
                       (unsigned long long)len, (unsigned long long)gpa);
    memcpy(buf, p, len);
    return 0;
}
