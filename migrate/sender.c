// SPDX-License-Identifier: Apache-2.0
#include "migrate/sender.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/bitmap.h"
#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/fault.h"
#include "hv/base/io.h"
#include "migrate/pages.h"
#include "migrate/stream.h"

/* Range that a thread takes from log-dirty at once: 16 MiB. */
#define TAKE_PAGES 4096
/* Range of an already taken bitmap that a thread comes for: 1 MiB, so that a small round is shared too. */
#define SHARE_PAGES 256
/* Holes are told apart by the MiB. */
#define HOLE_PAGES 256
/* Room in front of a batch's pages for the record header and the runs, so that a raw batch is sent from where
 * it lies. */
#define FRONT 4096
#define ZERO_RUNS 512

_Static_assert(FY_RECORD_HEADER + FY_PAGES_HEADER + FY_BATCH_PAGES * FY_PAGES_RUN <= FRONT, "front room");

struct sender {
    struct fy_pump *pump;
    struct fy_chan *chan;
    struct fy_flow flow;
    struct fy_packer *packer;
    struct fy_codec_stats stats;
    pthread_t thread;
    bool started;
    /* the batch being gathered: run_pages pages at raw + FRONT */
    uint8_t *raw;
    uint8_t *packed;
    struct fy_run runs[FY_BATCH_PAGES];
    unsigned run_count;
    unsigned batch_pages;
    enum fy_codec codec; /* what it is going to be tried with */
    bool direct;         /* its pages lie in the mapping, not at raw */
    /* zero runs being gathered */
    uint8_t zero_record[FY_RECORD_HEADER + ZERO_RUNS * FY_PAGES_RUN];
    unsigned zero_runs;
    uint64_t zero_first, zero_count; /* the last one, still growing */
    atomic_ullong pages_zero, pages_skipped, pages_raw, pages_lz4, pages_zstd, wire_bytes;
};

struct fy_pump {
    struct fy_pump_config cfg;
    const uint8_t *map; /* all of guest memory, with cfg.map */
    struct sender *senders;
    pthread_mutex_t lock;
    pthread_cond_t go;
    uint64_t round;    /* number of the round; threads start when `begun` passes their own count */
    uint64_t begun;    /* rounds begun */
    unsigned finished; /* threads that are through the present round */
    bool take_each, skip_holes;
    bool quit;
    bool failed;
    struct fy_err err;
    uint64_t cursor; /* next page to be shared out */
    atomic_bool stop;
    atomic_ullong done_pages;
};

static void wake(struct fy_pump *p)
{
    uint64_t one = 1;
    ssize_t ignored = write(p->cfg.wake_fd, &one, sizeof one);
    (void)ignored;
}

/* --- records
 * ------------------------------------------------------------------------------------------------- */

static int put(struct sender *s, const uint8_t *record, size_t len, struct fy_err *e)
{
    fy_rate_take(s->pump->cfg.rate, len);
    if (fy_chan_write(s->chan, record, len, e) < 0)
        return -1;
    atomic_store_explicit(&s->wire_bytes, fy_chan_wire_bytes(s->chan), memory_order_relaxed);
    return 0;
}

static int send_zeros(struct sender *s, struct fy_err *e)
{
    if (s->zero_count)
        fy_zero_write(s->zero_record + FY_RECORD_HEADER, s->zero_runs++, s->zero_first, s->zero_count);
    s->zero_count = 0;
    if (!s->zero_runs)
        return 0;
    uint32_t len = s->zero_runs * FY_PAGES_RUN;
    s->zero_runs = 0;
    fy_record_seal(&s->flow, FY_REC_ZERO, 0, s->zero_record + FY_RECORD_HEADER, len);
    return put(s, s->zero_record, FY_RECORD_HEADER + (size_t)len, e);
}

static int add_zero(struct sender *s, uint64_t page, struct fy_err *e)
{
    if (fy_fault_hit(FY_FAULT_MUT_SKIP_ZERO))
        return 0;
    atomic_fetch_add_explicit(&s->pages_zero, 1, memory_order_relaxed);
    if (s->zero_count && s->zero_first + s->zero_count == page) {
        s->zero_count++;
        return 0;
    }
    if (s->zero_count) {
        fy_zero_write(s->zero_record + FY_RECORD_HEADER, s->zero_runs++, s->zero_first, s->zero_count);
        s->zero_count = 0;
        if (s->zero_runs == ZERO_RUNS && send_zeros(s, e) < 0)
            return -1;
    }
    s->zero_first = page;
    s->zero_count = 1;
    return 0;
}

/* Pack the batch; returns where the record's body lies and its length, in *codec what it became. */
static uint8_t *pack_batch(struct sender *s, size_t raw_len, enum fy_codec *codec, size_t *body_len)
{
    const struct fy_pump_config *cfg = &s->pump->cfg;
    size_t prefix = fy_pages_prefix(s->run_count);
    uint8_t *pages = s->raw + FRONT;
    enum fy_codec tried = s->codec;
    size_t n = 0;
    /* Less than a sixteenth saved is not worth the target's unpacking. */
    size_t room = raw_len - raw_len / 16;
    /* CPU time: on a busy host the wall clock would count other programs' work as the codec's. */
    uint64_t start = fy_thread_cpu_ns();
    uint8_t *body = s->packed + FY_RECORD_HEADER;
    if (tried == FY_CODEC_LZ4)
        n = fy_lz4_pack(s->packer, pages, raw_len, body + prefix, room);
    else if (tried == FY_CODEC_ZSTD)
        n = fy_zstd_pack(s->packer, cfg->codec.zstd_level, pages, raw_len, body + prefix, room);
    fy_codec_account(&s->stats, tried, raw_len, n, fy_thread_cpu_ns() - start);
    *codec = n ? tried : FY_CODEC_NONE;
    if (!n) {
        body = pages - prefix;
        n = raw_len;
    }
    fy_pages_write(body, *codec, s->runs, s->run_count);
    *body_len = prefix + n;
    return body;
}

/* The peer may take TLS's word for the pages. */
static bool may_seal(const struct sender *s)
{
    return s->pump->cfg.sealed && fy_chan_is_tls(s->chan);
}

static void batch_gone(struct sender *s, atomic_ullong *kind)
{
    atomic_fetch_add_explicit(kind, s->batch_pages, memory_order_relaxed);
    s->run_count = 0;
    s->batch_pages = 0;
}

/* A raw batch over TLS straight from guest memory: OpenSSL's copy of it is the private one. What the guest
 * writes meanwhile is dirty again. */
static int send_direct(struct sender *s, struct fy_err *e)
{
    size_t raw_len = (size_t)s->batch_pages * FY_PAGE_SIZE;
    uint32_t fixed = (uint32_t)fy_pages_prefix(s->run_count);
    uint8_t *body = s->packed + FY_RECORD_HEADER;
    unsigned runs = s->run_count;
    fy_codec_account(&s->stats, FY_CODEC_NONE, raw_len, 0, 0);
    fy_pages_write(body, FY_CODEC_NONE, s->runs, runs);
    fy_record_seal_fixed(&s->flow, FY_REC_PAGES, body, fixed, fixed + (uint32_t)raw_len);
    batch_gone(s, &s->pages_raw);
    uint64_t start = fy_now_ns();
    uint64_t cpu = fy_thread_cpu_ns();
    int rc = put(s, s->packed, FY_RECORD_HEADER + fixed, e);
    for (unsigned i = 0; i < runs && rc == 0; i++)
        rc = put(s, s->pump->map + s->runs[i].first * FY_PAGE_SIZE, (size_t)s->runs[i].count * FY_PAGE_SIZE,
                 e);
    fy_codec_account_wire(&s->stats, raw_len, fy_thread_cpu_ns() - cpu, fy_now_ns() - start);
    return rc;
}

static int send_batch(struct sender *s, struct fy_err *e)
{
    if (!s->run_count)
        return 0;
    if (s->direct)
        return send_direct(s, e);
    enum fy_codec codec;
    size_t len;
    uint8_t *body = pack_batch(s, (size_t)s->batch_pages * FY_PAGE_SIZE, &codec, &len);
    bool sealed = codec == FY_CODEC_NONE && may_seal(s);
    uint32_t fixed = (uint32_t)fy_pages_prefix(s->run_count);
    atomic_ullong *kind = codec == FY_CODEC_LZ4    ? &s->pages_lz4
                          : codec == FY_CODEC_ZSTD ? &s->pages_zstd
                                                   : &s->pages_raw;
    batch_gone(s, kind);
    if (sealed)
        fy_record_seal_fixed(&s->flow, FY_REC_PAGES, body, fixed, (uint32_t)len);
    else
        fy_record_seal(&s->flow, FY_REC_PAGES, 0, body, (uint32_t)len);
    uint64_t start = fy_now_ns();
    uint64_t cpu = fy_thread_cpu_ns();
    int rc = put(s, body - FY_RECORD_HEADER, FY_RECORD_HEADER + len, e);
    fy_codec_account_wire(&s->stats, len, fy_thread_cpu_ns() - cpu, fy_now_ns() - start);
    return rc;
}

static int send_barrier(struct sender *s, uint64_t round, struct fy_err *e)
{
    uint8_t record[FY_RECORD_HEADER + 8];
    fy_put64(record + FY_RECORD_HEADER, round);
    fy_record_seal(&s->flow, FY_REC_BARRIER, 0, record + FY_RECORD_HEADER, 8);
    if (put(s, record, sizeof record, e) < 0 || fy_chan_flush(s->chan, e) < 0)
        return -1;
    atomic_store_explicit(&s->wire_bytes, fy_chan_wire_bytes(s->chan), memory_order_relaxed);
    return 0;
}

/* --- pages
 * --------------------------------------------------------------------------------------------------- */

static void begin_batch(struct sender *s)
{
    const struct fy_pump_config *cfg = &s->pump->cfg;
    s->codec = fy_codec_choose(&cfg->codec, cfg->codecs, &s->stats);
    s->direct = s->codec == FY_CODEC_NONE && s->pump->map && may_seal(s);
}

/* Append page `page` to the batch or to the zero runs. data: in the batch's buffer, at its place or behind
 * it, or the mapping of guest memory. */
static int add_page(struct sender *s, uint64_t page, const uint8_t *data, struct fy_err *e)
{
    if (fy_page_is_zero(data))
        return add_zero(s, page, e);
    if (fy_fault_hit(FY_FAULT_MUT_DROP_PAGE))
        return 0;
    if (!s->batch_pages)
        begin_batch(s);
    uint8_t *slot = s->raw + FRONT + (size_t)s->batch_pages * FY_PAGE_SIZE;
    if (!s->direct && slot != data)
        memmove(slot, data, FY_PAGE_SIZE);
    struct fy_run *last = s->run_count ? &s->runs[s->run_count - 1] : NULL;
    if (last && last->first + last->count == page)
        last->count++;
    else
        s->runs[s->run_count++] = (struct fy_run){.first = page, .count = 1};
    s->batch_pages++;
    return 0;
}

/* Read and deal with pages [first, first + count). A private copy is packed: the guest goes on writing, and a
 * batch whose pages change while a codec refers back to them would unpack to something that never was. */
static int send_pages(struct sender *s, uint64_t first, uint64_t count, struct fy_err *e)
{
    while (count) {
        if (atomic_load_explicit(&s->pump->stop, memory_order_relaxed))
            return fy_fail(e, FY_ECANCELLED, "stopped");
        uint64_t n = FY_MIN(count, (uint64_t)(FY_BATCH_PAGES - s->batch_pages));
        uint8_t *at = s->raw + FRONT + (size_t)s->batch_pages * FY_PAGE_SIZE;
        if (s->pump->map)
            at = NULL;
        else if (fy_pread_all(s->pump->cfg.mem_fd, at, n * FY_PAGE_SIZE, (off_t)(first * FY_PAGE_SIZE)) < 0)
            return fy_fail_errno(e, FY_EFAIL, errno, "cannot read guest memory at page %llu",
                                 (unsigned long long)first);
        for (uint64_t i = 0; i < n; i++)
            if (add_page(s, first + i, at ? at + i * FY_PAGE_SIZE : s->pump->map + (first + i) * FY_PAGE_SIZE,
                         e) < 0)
                return -1;
        if (s->batch_pages == FY_BATCH_PAGES && send_batch(s, e) < 0)
            return -1;
        first += n;
        count -= n;
    }
    return 0;
}

/* Page of the first data at or after `page`, or `end`. Log-dirty is on and the range was taken before, so
 * what is a hole now and is written later will be dirty again. */
static uint64_t next_data(int fd, uint64_t page, uint64_t end)
{
    off_t data = lseek(fd, (off_t)(page * FY_PAGE_SIZE), SEEK_DATA);
    if (data < 0) /* ENXIO: nothing but holes to the file's end. Anything else: treat all as data. */
        return errno == ENXIO ? end : page;
    return FY_MIN((uint64_t)data / FY_PAGE_SIZE, end);
}

static int send_dirty(struct sender *s, uint64_t first, uint64_t end, struct fy_err *e)
{
    const uint64_t *map = s->pump->cfg.bitmap;
    while ((first = fy_bits_next_set(map, first, end)) < end) {
        uint64_t stop = fy_bits_next_clear(map, first, end);
        if (send_pages(s, first, stop - first, e) < 0)
            return -1;
        first = stop;
    }
    return 0;
}

static int send_range(struct sender *s, uint64_t first, uint64_t end, struct fy_err *e)
{
    struct fy_pump *p = s->pump;
    if (p->take_each &&
        fy_ctl_tracker_take(p->cfg.ctl, p->cfg.tracker, first, end - first, false, NULL, NULL, e) < 0)
        return -1;
    if (!p->skip_holes)
        return send_dirty(s, first, end, e);
    while (first < end) {
        /* By the MiB: SEEK_HOLE would walk the whole extent, which on a full guest is all of memory, for
         * every range. Holes inside a MiB read as zeros, and reading does not fill them. */
        uint64_t data = next_data(p->cfg.mem_fd, first, end) / HOLE_PAGES * HOLE_PAGES;
        data = FY_MAX(data, first);
        atomic_fetch_add_explicit(&s->pages_skipped, data - first, memory_order_relaxed);
        first = FY_MIN(data + HOLE_PAGES, end);
        if (send_dirty(s, data, first, e) < 0)
            return -1;
    }
    return 0;
}

/* --- threads
 * ------------------------------------------------------------------------------------------------- */

/* The next range to do, or false when the round has none left. */
static bool next_range(struct fy_pump *p, uint64_t *first, uint64_t *end)
{
    pthread_mutex_lock(&p->lock);
    uint64_t step = p->take_each ? TAKE_PAGES : SHARE_PAGES;
    uint64_t at = p->take_each ? p->cursor : fy_bits_next_set(p->cfg.bitmap, p->cursor, p->cfg.pages);
    bool any = at < p->cfg.pages && !p->failed;
    if (any) {
        *first = at;
        *end = FY_MIN(at / step * step + step, p->cfg.pages);
        p->cursor = *end;
    }
    pthread_mutex_unlock(&p->lock);
    return any;
}

static int run_round(struct sender *s, uint64_t round, struct fy_err *e)
{
    uint64_t first;
    uint64_t end;
    while (next_range(s->pump, &first, &end)) {
        if (send_range(s, first, end, e) < 0)
            return -1;
        atomic_fetch_add_explicit(&s->pump->done_pages, end - first, memory_order_relaxed);
    }
    if (s->batch_pages && fy_fault_hit(FY_FAULT_MUT_OMIT_LAST)) {
        s->run_count = 0;
        s->batch_pages = 0;
    }
    if (send_batch(s, e) < 0 || send_zeros(s, e) < 0)
        return -1;
    return send_barrier(s, round, e);
}

static void fail_pump(struct fy_pump *p, const struct fy_err *e)
{
    pthread_mutex_lock(&p->lock);
    if (!p->failed)
        p->err = *e;
    p->failed = true;
    pthread_mutex_unlock(&p->lock);
    wake(p);
}

static void *sender_main(void *arg)
{
    struct sender *s = arg;
    struct fy_pump *p = s->pump;
    uint64_t mine = 0;
    for (;;) {
        pthread_mutex_lock(&p->lock);
        while (p->begun == mine && !p->quit)
            pthread_cond_wait(&p->go, &p->lock);
        bool quit = p->quit;
        uint64_t round = p->round;
        mine = p->begun;
        pthread_mutex_unlock(&p->lock);
        if (quit)
            return NULL;
        struct fy_err e = {0};
        if (run_round(s, round, &e) < 0) {
            fail_pump(p, &e);
            return NULL;
        }
        pthread_mutex_lock(&p->lock);
        bool last = ++p->finished == p->cfg.count;
        pthread_mutex_unlock(&p->lock);
        if (last)
            wake(p);
    }
}

static int start_sender(struct fy_pump *p, unsigned i, struct fy_err *e)
{
    struct sender *s = &p->senders[i];
    s->pump = p;
    s->chan = p->cfg.chans[i];
    fy_codec_stats_init(&s->stats);
    s->raw = aligned_alloc(FY_PAGE_SIZE, FRONT + FY_BATCH_BYTES);
    s->packed = malloc(FRONT + FY_BATCH_BYTES);
    s->packer = fy_packer_new(e);
    if (!s->raw || !s->packed || !s->packer)
        return fy_fail(e, FY_ERESOURCE, "no memory for a channel's buffers");
    /* The ticket was the channel's first record. */
    int rc = pthread_create(&s->thread, NULL, sender_main, s);
    if (rc)
        return fy_fail_errno(e, FY_ERESOURCE, rc, "cannot start a thread");
    s->started = true;
    return 0;
}

struct fy_pump *fy_pump_new(const struct fy_pump_config *config, struct fy_err *e)
{
    struct fy_pump *p = calloc(1, sizeof *p);
    if (p)
        p->senders = calloc(config->count, sizeof *p->senders);
    if (!p || !p->senders) {
        free(p);
        fy_fail(e, FY_ERESOURCE, "no memory for the channels");
        return NULL;
    }
    p->cfg = *config;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->go, NULL);
    if (config->map) {
        void *map = fy_map_large(config->mem_fd, config->pages * FY_PAGE_SIZE, PROT_READ);
        p->map = map == MAP_FAILED ? NULL : map; /* pread does as well */
    }
    for (unsigned i = 0; i < config->count; i++)
        if (start_sender(p, i, e) < 0) {
            fy_pump_free(p);
            return NULL;
        }
    return p;
}

void fy_pump_free(struct fy_pump *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->go);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->cfg.count; i++) {
        struct sender *s = &p->senders[i];
        if (s->started)
            pthread_join(s->thread, NULL);
        free(s->raw);
        free(s->packed);
        fy_packer_free(s->packer);
    }
    if (p->map)
        munmap((void *)(uintptr_t)p->map, p->cfg.pages * FY_PAGE_SIZE);
    free(p->senders);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->go);
    free(p);
}

void fy_pump_begin(struct fy_pump *p, uint64_t round, bool take_each, bool skip_holes)
{
    pthread_mutex_lock(&p->lock);
    p->round = round;
    p->take_each = take_each;
    p->skip_holes = skip_holes;
    p->cursor = 0;
    p->finished = 0;
    p->begun++;
    atomic_store(&p->done_pages, 0);
    pthread_cond_broadcast(&p->go);
    pthread_mutex_unlock(&p->lock);
}

int fy_pump_poll(struct fy_pump *p, struct fy_err *e)
{
    pthread_mutex_lock(&p->lock);
    int rc = p->failed ? -1 : p->finished == p->cfg.count;
    if (rc < 0 && e)
        *e = p->err;
    pthread_mutex_unlock(&p->lock);
    return rc;
}

void fy_pump_stop(struct fy_pump *p)
{
    atomic_store(&p->stop, true);
}

void fy_pump_totals(struct fy_pump *p, struct fy_pump_totals *out)
{
    memset(out, 0, sizeof *out);
    out->done_pages = atomic_load(&p->done_pages);
    for (unsigned i = 0; i < p->cfg.count; i++) {
        struct sender *s = &p->senders[i];
        out->pages_zero += atomic_load_explicit(&s->pages_zero, memory_order_relaxed);
        out->pages_skipped += atomic_load_explicit(&s->pages_skipped, memory_order_relaxed);
        out->pages_raw += atomic_load_explicit(&s->pages_raw, memory_order_relaxed);
        out->pages_lz4 += atomic_load_explicit(&s->pages_lz4, memory_order_relaxed);
        out->pages_zstd += atomic_load_explicit(&s->pages_zstd, memory_order_relaxed);
        out->wire_bytes += atomic_load_explicit(&s->wire_bytes, memory_order_relaxed);
    }
}

void fy_pump_summary(const struct fy_pump *p, unsigned i, uint64_t *records, uint64_t *digest)
{
    *records = p->senders[i].flow.records;
    *digest = p->senders[i].flow.digest;
}
