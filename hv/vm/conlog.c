// SPDX-License-Identifier: Apache-2.0
#include "hv/vm/conlog.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/base/log.h"

struct fy_conlog {
    struct fy_loop *loop;
    int fds[2];
    uint64_t max;
    unsigned current; /* the loop's thread: this and the two below */
    uint64_t used;
    bool failed; /* said so; tried again with the next output */

    pthread_mutex_t lock; /* all below */
    bool posted;
    uint64_t lost;
    size_t waiting;
    uint8_t *fill, *drain; /* FY_CONLOG_WAITING bytes each */
};

static bool later(const struct stat *a, const struct stat *b)
{
    if (a->st_mtim.tv_sec != b->st_mtim.tv_sec)
        return a->st_mtim.tv_sec > b->st_mtim.tv_sec;
    if (a->st_mtim.tv_nsec != b->st_mtim.tv_nsec)
        return a->st_mtim.tv_nsec > b->st_mtim.tv_nsec;
    /* The clock of files is coarse: of two written in one tick the one begun later is shorter. */
    return a->st_size && a->st_size < b->st_size;
}

struct fy_conlog *fy_conlog_new(struct fy_loop *loop, const int fds[2], uint64_t max, struct fy_err *e)
{
    struct stat st[2];
    struct fy_conlog *l = calloc(1, sizeof *l);
    uint8_t *fill = malloc(FY_CONLOG_WAITING), *drain = malloc(FY_CONLOG_WAITING);
    if (!l || !fill || !drain || fstat(fds[0], &st[0]) < 0 || fstat(fds[1], &st[1]) < 0) {
        fy_fail(e, FY_ERESOURCE, "cannot begin the console's log");
        free(l);
        free(fill);
        free(drain);
        return NULL;
    }
    *l = (struct fy_conlog){.loop = loop, .fds = {fds[0], fds[1]}, .max = max, .fill = fill, .drain = drain};
    pthread_mutex_init(&l->lock, NULL);
    l->current = later(&st[1], &st[0]) && st[1].st_size;
    l->used = (uint64_t)st[l->current].st_size;
    return l;
}

static void write_some(struct fy_conlog *l, const uint8_t *buf, size_t len)
{
    while (len) {
        if (l->used >= l->max) {
            unsigned next = l->current ^ 1;
            if (ftruncate(l->fds[next], 0) < 0)
                break;
            l->current = next;
            l->used = 0;
        }
        size_t n = (size_t)FY_MIN((uint64_t)len, l->max - l->used);
        if (fy_pwrite_all(l->fds[l->current], buf, n, l->used) < 0)
            break;
        l->used += n;
        buf += n;
        len -= n;
    }
    if (len && !l->failed)
        fy_warn("the console's log cannot be written: %s", strerror(errno));
    l->failed = len != 0;
}

void fy_conlog_flush(struct fy_conlog *l)
{
    char text[64];
    pthread_mutex_lock(&l->lock);
    uint8_t *buf = l->fill;
    size_t len = l->waiting;
    uint64_t lost = l->lost;
    l->fill = l->drain;
    l->drain = buf;
    l->waiting = 0;
    l->lost = 0;
    pthread_mutex_unlock(&l->lock);
    write_some(l, buf, len);
    int n =
        lost ? snprintf(text, sizeof text, "\n[%llu bytes were not logged]\n", (unsigned long long)lost) : 0;
    if (n > 0)
        write_some(l, (const uint8_t *)text, (size_t)n);
}

static void on_posted(void *arg)
{
    struct fy_conlog *l = arg;
    pthread_mutex_lock(&l->lock);
    l->posted = false; /* before the flush: what comes during it is posted anew */
    pthread_mutex_unlock(&l->lock);
    fy_conlog_flush(l);
}

void fy_conlog_put(struct fy_conlog *l, const uint8_t *buf, size_t len)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    size_t n = FY_MIN(len, FY_CONLOG_WAITING - l->waiting);
    memcpy(l->fill + l->waiting, buf, n);
    l->waiting += n;
    l->lost += len - n;
    bool post = !l->posted;
    l->posted = true;
    pthread_mutex_unlock(&l->lock);
    if (post && fy_loop_post(l->loop, on_posted, l, NULL) < 0) {
        pthread_mutex_lock(&l->lock);
        l->posted = false;
        pthread_mutex_unlock(&l->lock);
    }
}

void fy_conlog_free(struct fy_conlog *l)
{
    if (!l)
        return;
    fy_conlog_flush(l);
    pthread_mutex_destroy(&l->lock);
    free(l->fill);
    free(l->drain);
    free(l);
}
