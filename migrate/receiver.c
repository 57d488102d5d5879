// SPDX-License-Identifier: Apache-2.0
#include "migrate/receiver.h"

#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
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
#include "hv/base/log.h"
#include "migrate/codec.h"
#include "migrate/pages.h"
#include "migrate/stream.h"

/* Zero pages written at once where memory was filled before. */
#define ZERO_CHUNK (256 * 1024)

struct channel {
    struct fy_sink *sink;
    unsigned number; /* 1..count */
    int sock;
    struct fy_chan *chan;
    struct fy_flow flow;
    struct fy_packer *packer;
    uint8_t *body; /* FY_RECORD_BODY_MAX */
    uint8_t *raw;  /* FY_PAGES_MAX pages */
    uint8_t *held; /* mutation test only: a batch kept back */
    size_t held_len;
    pthread_t thread;
    bool started;
    uint64_t barriers; /* passed by this channel */
};

struct fy_sink {
    struct fy_sink_config cfg;
    struct channel *channels;
    pthread_mutex_t lock;
    pthread_cond_t passed;
    uint64_t *filled; /* pages that hold something, one bit each; set atomically */
    uint8_t *map;     /* with cfg.map */
    unsigned at_barrier;
    uint64_t rounds;
    bool failed, quit;
    struct fy_err err;
    atomic_ullong applied;
    uint64_t round_began_ns, apply_ns;
};

static const uint8_t zeros[ZERO_CHUNK];

static void wake(struct fy_sink *s)
{
    uint64_t one = 1;
    ssize_t ignored = write(s->cfg.wake_fd, &one, sizeof one);
    (void)ignored;
}

/* --- memory
 * -------------------------------------------------------------------------------------------------- */

static int store(struct fy_sink *s, uint64_t page, uint64_t count, const uint8_t *data, struct fy_err *e)
{
    if (s->map) {
        if (data != s->map + page * FY_PAGE_SIZE)
            memcpy(s->map + page * FY_PAGE_SIZE, data, count * FY_PAGE_SIZE);
        return 0;
    }
    /* pwrite, not a mapping: on memory that is already there it is four times faster than faulting a mapping
     * in. */
    if (fy_pwrite_all(s->cfg.mem_fd, data, count * FY_PAGE_SIZE, (off_t)(page * FY_PAGE_SIZE)) < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno,
                             "cannot write guest memory at page %" PRIu64 " (host short of memory?)", page);
    return 0;
}

static void filled(struct fy_sink *s, const struct fy_pages *p)
{
    for (unsigned i = 0; i < p->run_count; i++)
        for (uint64_t k = 0; k < p->runs[i].count; k++)
            fy_bit_set_atomic(s->filled, p->runs[i].first + k);
    atomic_fetch_add_explicit(&s->applied, p->raw_len / FY_PAGE_SIZE, memory_order_relaxed);
}

static int apply_pages(struct channel *c, const uint8_t *body, size_t len, struct fy_err *e)
{
    struct fy_sink *s = c->sink;
    struct fy_pages p;
    if (fy_pages_parse(body, len, s->cfg.pages, &p, e) < 0)
        return -1;
    const uint8_t *raw = p.packed;
    /* Straight into memory where that is one piece; should it not unpack, this guest will never run. */
    uint8_t *room = s->map && p.run_count == 1 ? s->map + p.runs[0].first * FY_PAGE_SIZE : c->raw;
    if (p.codec != FY_CODEC_NONE) {
        int rc = p.codec == FY_CODEC_LZ4 ? fy_lz4_unpack(p.packed, p.packed_len, room, p.raw_len)
                                         : fy_zstd_unpack(c->packer, p.packed, p.packed_len, room, p.raw_len);
        if (rc < 0)
            return fy_fail(e, FY_ECORRUPT, "a batch at page %" PRIu64 " does not unpack as %s",
                           p.runs[0].first, fy_codec_name(p.codec));
        raw = room;
    }
    for (unsigned i = 0; i < p.run_count; i++) {
        if (store(s, p.runs[i].first, p.runs[i].count, raw, e) < 0)
            return -1;
        raw += (size_t)p.runs[i].count * FY_PAGE_SIZE;
    }
    filled(s, &p);
    return 0;
}

/* Memory starts as holes or zeros: only pages that were filled need work, so that zero pages never touch
 * memory. */
static int apply_zeros(struct channel *c, const uint8_t *body, size_t len, struct fy_err *e)
{
    struct fy_sink *s = c->sink;
    unsigned count;
    if (fy_zero_count(len, &count, e) < 0)
        return -1;
    for (unsigned i = 0; i < count; i++) {
        uint64_t first;
        uint64_t n;
        if (fy_zero_parse(body, i, s->cfg.pages, &first, &n, e) < 0)
            return -1;
        uint64_t end = first + n;
        while ((first = fy_bits_next_set(s->filled, first, end)) < end) {
            uint64_t stop =
                fy_bits_next_clear(s->filled, first, FY_MIN(end, first + ZERO_CHUNK / FY_PAGE_SIZE));
            if (store(s, first, stop - first, zeros, e) < 0)
                return -1;
            first = stop;
        }
    }
    return 0;
}

/* --- barriers
 * ------------------------------------------------------------------------------------------------ */

/* Wait until every channel has ended this round. */
static int pass_barrier(struct channel *c, const uint8_t *body, size_t len, struct fy_err *e)
{
    struct fy_sink *s = c->sink;
    if (len != 8 || fy_get64(body) != c->barriers + 1)
        return fy_fail(e, FY_ECORRUPT, "channel %u: barrier %" PRIu64 " expected", c->number,
                       c->barriers + 1);
    pthread_mutex_lock(&s->lock);
    uint64_t round = ++c->barriers;
    bool skip = fy_fault_hit(FY_FAULT_MUT_NO_BARRIER);
    if (skip) {
        s->rounds = FY_MAX(s->rounds, round);
        wake(s);
    } else if (++s->at_barrier == s->cfg.count) {
        s->at_barrier = 0;
        s->rounds = round;
        uint64_t now = fy_now_ns();
        s->apply_ns = now - s->round_began_ns;
        s->round_began_ns = now;
        pthread_cond_broadcast(&s->passed);
        wake(s);
    }
    while (s->rounds < round && !s->failed && !s->quit)
        pthread_cond_wait(&s->passed, &s->lock);
    bool ok = s->rounds >= round;
    pthread_mutex_unlock(&s->lock);
    if (ok && fy_fault_hit(FY_FAULT_DST_ROUND))
        return fy_fail(e, FY_EFAIL, "fault point %d", FY_FAULT_DST_ROUND);
    return ok ? 0 : fy_fail(e, FY_ECANCELLED, "another channel failed");
}

/* Mutation test: keep one batch of an early round and apply it again after a later one. */
static int swap_rounds(struct channel *c, uint16_t type, size_t len, struct fy_err *e)
{
    if (type == FY_REC_PAGES && !c->held && fy_fault_hit(FY_FAULT_MUT_SWAP_ROUNDS)) {
        c->held = malloc(len);
        if (c->held)
            memcpy(c->held, c->body, len);
        c->held_len = len;
    }
    if (type == FY_REC_BARRIER && c->held && c->barriers >= 2)
        return apply_pages(c, c->held, c->held_len, e);
    return 0;
}

static int not_sealed(const struct fy_record_header *h, struct fy_err *e)
{
    return fy_fail(e, FY_ECORRUPT,
                   "record %" PRIu64
                   " leaves its pages to TLS's checksum, but is packed, in clear or none of "
                   "pages",
                   h->sequence);
}

/* The pages of a raw record whose fixed part is in c->body. */
static int read_placed(struct channel *c, const struct fy_record_header *h, uint32_t *crc, struct fy_err *e)
{
    struct fy_sink *s = c->sink;
    struct fy_pages p;
    if (fy_pages_parse(c->body, h->length, s->cfg.pages, &p, e) < 0)
        return -1;
    for (unsigned i = 0; i < p.run_count; i++)
        if (fy_record_piece(c->chan, s->map + p.runs[i].first * FY_PAGE_SIZE, p.runs[i].count * FY_PAGE_SIZE,
                            crc, e) < 0)
            return -1;
    filled(s, &p);
    return 0;
}

/* A record's body, whole, into c->body, but for raw pages of a mapped memory: they are read to where they
 * belong (*placed). A batch that then fails its checksum ends the job, and this guest never runs. */
static int read_body(struct channel *c, const struct fy_record_header *h, uint32_t *crc, bool *placed,
                     struct fy_err *e)
{
    struct fy_sink *s = c->sink;
    bool sealed = h->flags & FY_RECORD_SEALED;
    uint32_t have = FY_PAGES_HEADER;
    *placed = false;
    if (h->type != FY_REC_PAGES || h->length <= have)
        return sealed ? not_sealed(h, e) : fy_record_piece(c->chan, c->body, h->length, crc, e);
    if (fy_record_piece(c->chan, c->body, have, crc, e) < 0)
        return -1;
    uint32_t prefix = (uint32_t)fy_pages_prefix(fy_get16(c->body + 2));
    bool raw = fy_get16(c->body) == FY_CODEC_NONE && prefix <= h->length;
    if (sealed && (!raw || !fy_chan_is_tls(c->chan)))
        return not_sealed(h, e);
    *placed = raw && s->map && !fy_fault_armed(FY_FAULT_MUT_SWAP_ROUNDS);
    if (!sealed && !*placed)
        return fy_record_piece(c->chan, c->body + have, h->length - have, crc, e);
    if (fy_record_piece(c->chan, c->body + have, prefix - have, crc, e) < 0)
        return -1;
    if (!*placed)
        return fy_record_piece(c->chan, c->body + prefix, h->length - prefix, NULL, e);
    return read_placed(c, h, sealed ? NULL : crc, e);
}

static int apply_record(struct channel *c, const struct fy_record_header *h, struct fy_err *e)
{
    if (swap_rounds(c, h->type, h->length, e) < 0)
        return -1;
    switch (h->type) {
    case FY_REC_PAGES:
        return apply_pages(c, c->body, h->length, e);
    case FY_REC_ZERO:
        return apply_zeros(c, c->body, h->length, e);
    case FY_REC_BARRIER:
        return pass_barrier(c, c->body, h->length, e);
    default:
        return fy_fail(e, FY_ECORRUPT, "record type %u does not belong on a data channel", h->type);
    }
}

static int take_record(struct channel *c, struct fy_err *e)
{
    uint8_t raw[FY_RECORD_HEADER];
    struct fy_record_header h;
    uint32_t crc;
    bool placed;
    if (fy_record_begin(c->chan, &c->flow, raw, &h, &crc, e) < 0 || read_body(c, &h, &crc, &placed, e) < 0 ||
        fy_record_end(&c->flow, raw, &h, crc, e) < 0)
        return -1;
    if (placed || (!fy_record_known(h.type) && (h.flags & FY_RECORD_OPTIONAL)))
        return 0;
    return apply_record(c, &h, e);
}

/* --- threads
 * ------------------------------------------------------------------------------------------------- */

static int prove(struct channel *c, struct fy_err *e)
{
    struct fy_sink *s = c->sink;
    struct fy_record_header h;
    uint8_t want[32];
    if (fy_record_read(c->chan, &c->flow, c->body, &h, e) < 0)
        return -1;
    fy_ticket_proof(s->cfg.ticket, c->number, want);
    if (h.type != FY_REC_TICKET || h.length != sizeof want || CRYPTO_memcmp(c->body, want, sizeof want))
        return fy_fail(e, FY_EAUTH, "data channel %u does not belong to this job", c->number);
    uint8_t digest[FY_CERT_DIGEST];
    if (s->cfg.tls && (fy_chan_peer_digest(c->chan, digest) < 0 ||
                       CRYPTO_memcmp(digest, s->cfg.peer_digest, sizeof digest)))
        return fy_fail(e, FY_EAUTH, "data channel %u comes from another host than its job", c->number);
    memset(&c->flow, 0, sizeof c->flow);
    return 0;
}

static int serve(struct channel *c, struct fy_err *e)
{
    struct fy_sink *s = c->sink;
    struct fy_chan *chan = fy_chan_new(c->sock, s->cfg.tls, e);
    c->sock = -1;
    if (!chan)
        return -1;
    pthread_mutex_lock(&s->lock);
    c->chan = chan;
    bool quit = s->quit;
    pthread_mutex_unlock(&s->lock);
    c->body = malloc(FY_RECORD_BODY_MAX);
    c->raw = malloc((size_t)FY_PAGES_MAX * FY_PAGE_SIZE);
    c->packer = fy_packer_new(e);
    if (!c->body || !c->raw || !c->packer)
        return fy_fail(e, FY_ERESOURCE, "no memory for a channel's buffers");
    if (quit)
        return fy_fail(e, FY_ECANCELLED, "stopped");
    if (prove(c, e) < 0)
        return -1;
    /* Between rounds the source may think for long: silence is judged on the control channel. */
    fy_chan_set_timeout(chan, 0);
    for (;;)
        if (take_record(c, e) < 0)
            return -1;
}

static void *channel_main(void *arg)
{
    struct channel *c = arg;
    struct fy_sink *s = c->sink;
    struct fy_err e = {0};
    serve(c, &e);
    pthread_mutex_lock(&s->lock);
    if (!s->failed)
        s->err = e;
    s->failed = true;
    pthread_cond_broadcast(&s->passed);
    pthread_mutex_unlock(&s->lock);
    wake(s);
    return NULL;
}

struct fy_sink *fy_sink_new(const struct fy_sink_config *config, struct fy_err *e)
{
    struct fy_sink *s = calloc(1, sizeof *s);
    if (!s) {
        fy_fail(e, FY_ERESOURCE, "no memory for the channels");
        return NULL;
    }
    s->cfg = *config;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->passed, NULL);
    s->round_began_ns = fy_now_ns();
    s->channels = calloc(config->count, sizeof *s->channels);
    s->filled = calloc(FY_BITMAP_WORDS(config->pages) + 1, 8);
    if (!s->channels || !s->filled) {
        fy_fail(e, FY_ERESOURCE, "no memory for the channels");
        fy_sink_free(s);
        return NULL;
    }
    for (unsigned i = 0; i < config->count; i++) {
        s->channels[i].sink = s;
        s->channels[i].number = i + 1;
        s->channels[i].sock = -1;
    }
    if (config->map) {
        void *map = fy_map_large(config->mem_fd, config->pages * FY_PAGE_SIZE, PROT_READ | PROT_WRITE);
        if (map == MAP_FAILED) {
            fy_fail_errno(e, FY_ERESOURCE, errno, "cannot map guest memory");
            fy_sink_free(s);
            return NULL;
        }
        s->map = map;
    }
    return s;
}

void fy_sink_add(struct fy_sink *s, unsigned channel, int sock)
{
    pthread_mutex_lock(&s->lock);
    struct channel *c = channel >= 1 && channel <= s->cfg.count ? &s->channels[channel - 1] : NULL;
    if (!c || c->started || s->quit) {
        fy_warn("a connection for data channel %u is refused: %s", channel,
                c ? "it is taken" : "there is no such channel");
        fy_close(&sock);
    } else {
        c->sock = sock;
        c->started = pthread_create(&c->thread, NULL, channel_main, c) == 0;
        if (!c->started)
            fy_close(&c->sock);
    }
    pthread_mutex_unlock(&s->lock);
}

int fy_sink_poll(struct fy_sink *s, uint64_t *rounds, uint64_t *apply_ns, struct fy_err *e)
{
    pthread_mutex_lock(&s->lock);
    int rc = s->failed ? -1 : 0;
    if (rc < 0 && e)
        *e = s->err;
    *rounds = s->rounds;
    if (apply_ns)
        *apply_ns = s->apply_ns;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void fy_sink_summary(struct fy_sink *s, unsigned channel, uint64_t *records, uint64_t *digest)
{
    pthread_mutex_lock(&s->lock);
    *records = s->channels[channel - 1].flow.records;
    *digest = s->channels[channel - 1].flow.digest;
    pthread_mutex_unlock(&s->lock);
}

uint64_t fy_sink_wire_pages(struct fy_sink *s)
{
    return atomic_load(&s->applied);
}

void fy_sink_free(struct fy_sink *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    for (unsigned i = 0; s->channels && i < s->cfg.count; i++)
        if (s->channels[i].chan)
            fy_chan_abort(s->channels[i].chan);
    pthread_cond_broadcast(&s->passed);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; s->channels && i < s->cfg.count; i++) {
        struct channel *c = &s->channels[i];
        if (c->started)
            pthread_join(c->thread, NULL);
        fy_chan_free(c->chan);
        fy_packer_free(c->packer);
        free(c->body);
        free(c->raw);
        free(c->held);
    }
    if (s->map)
        munmap(s->map, s->cfg.pages * FY_PAGE_SIZE);
    free(s->channels);
    free(s->filled);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->passed);
    free(s);
}
