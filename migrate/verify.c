// SPDX-License-Identifier: Apache-2.0
#include "migrate/verify.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/crc32c.h"
#include "hv/base/io.h"

#define BLOCK (1u << 20)

struct work {
    int fd;
    uint64_t bytes;
    uint32_t *crcs;
    uint32_t zero_crc;
    atomic_ullong next;
    atomic_int error;
};

static bool is_hole(const struct work *w, uint64_t at, uint64_t len)
{
    off_t data = lseek(w->fd, (off_t)at, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= at + len;
}

static void *digest_main(void *arg)
{
    struct work *w = arg;
    uint8_t *buf = malloc(BLOCK);
    if (!buf)
        atomic_store(&w->error, ENOMEM);
    while (buf && !atomic_load(&w->error)) {
        uint64_t block = atomic_fetch_add(&w->next, 1);
        uint64_t at = block * BLOCK;
        if (at >= w->bytes)
            break;
        uint64_t len = FY_MIN((uint64_t)BLOCK, w->bytes - at);
        if (len == BLOCK && is_hole(w, at, len))
            w->crcs[block] = w->zero_crc;
        else if (fy_pread_all(w->fd, buf, len, (off_t)at) == 0)
            w->crcs[block] = fy_crc32c(0, buf, len);
        else
            atomic_store(&w->error, errno);
    }
    free(buf);
    return NULL;
}

int fy_memory_digest(int mem_fd, uint64_t pages, unsigned threads, uint64_t *digest, struct fy_err *e)
{
    struct work w = {.fd = mem_fd, .bytes = pages * FY_PAGE_SIZE};
    uint64_t blocks = FY_DIV_UP(w.bytes, BLOCK);
    pthread_t t[16];
    unsigned started = 0;
    uint8_t *zero = calloc(1, BLOCK);
    w.crcs = calloc(blocks + 1, sizeof *w.crcs);
    if (!zero || !w.crcs) {
        free(zero);
        free(w.crcs);
        return fy_fail(e, FY_ERESOURCE, "no memory to verify");
    }
    w.zero_crc = fy_crc32c(0, zero, BLOCK);
    free(zero);
    for (unsigned i = 1; i < threads && i < FY_ARRAY_LEN(t); i++)
        if (pthread_create(&t[started], NULL, digest_main, &w) == 0)
            started++;
    digest_main(&w);
    for (unsigned i = 0; i < started; i++)
        pthread_join(t[i], NULL);
    uint64_t d = 0xcbf29ce484222325ull;
    for (uint64_t b = 0; b < blocks; b++)
        for (int k = 0; k < 4; k++)
            d = (d ^ (w.crcs[b] >> (8 * k) & 0xff)) * 0x100000001b3ull;
    free(w.crcs);
    int err = atomic_load(&w.error);
    if (err)
        return fy_fail_errno(e, FY_EFAIL, err, "cannot read guest memory to verify it");
    *digest = d;
    return 0;
}
