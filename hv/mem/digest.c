// SPDX-License-Identifier: Apache-2.0
#include "hv/mem/digest.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/crc32c.h"

#define PAGE 4096u

/* splitmix64's finaliser */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t pages_of(const struct fy_gmem *m, uint64_t from, uint64_t to)
{
    static const uint8_t zeros[PAGE];
    uint64_t sum = 0;
    for (uint64_t at = from; at < to; at += PAGE) {
        if (!memcmp(m->host + at, zeros, PAGE))
            continue;
        uint64_t crc = fy_crc32c(0, m->host + at, PAGE);
        sum += mix(mix(at / PAGE + 1) ^ crc);
    }
    return sum;
}

int fy_gmem_digest(const struct fy_gmem *m, uint64_t *out, struct fy_err *e)
{
    /* Boot images come last, and are no memory of the guest's. */
    off_t at = 0, end = (off_t)(m->images ? m->images->offset : m->bytes);
    *out = 0;
    while (at < end) {
        at = lseek(m->fd, at, SEEK_DATA);
        if (at < 0 && errno == ENXIO)
            break;
        off_t hole = at < 0 ? -1 : lseek(m->fd, at, SEEK_HOLE);
        if (hole < 0)
            return fy_fail_errno(e, FY_EFAIL, errno, "cannot search the guest's memory for data");
        *out += pages_of(m, (uint64_t)at / PAGE * PAGE, (uint64_t)(hole < end ? hole : end));
        at = hole;
    }
    return 0;
}
