// SPDX-License-Identifier: Apache-2.0
/* What a page of the working area holds: a pure function of (fill, page number, counter), shared by the guest
 * and the outside checker. A page is 64 slots of 64 bytes. Slot 0 begins with the counter and a hash of
 * (page, counter). Pass c rewrites slot 1 + c mod 63; a slot's content is derived from the pass that wrote it
 * last (0: the fill), in the style of the fill, so that a page stays as compressible as it was. */
#ifndef FERRY_SELFCHECK_BODY_H
#define FERRY_SELFCHECK_BODY_H

#include <stdint.h>

#include "layout.h"

#define SC_SLOTS 64
#define SC_SLOT_WORDS 8
#define SC_WORDS 512
#define SC_PHRASES 70 /* in batches of 64 KiB text packs 5.6 times with lz4, 10 times with zstd -1 */

extern uint64_t sc_phrases[SC_PHRASES][SC_SLOT_WORDS];

static inline uint64_t sc_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* Fill sc_phrases. Call once. */
static inline void sc_body_init(void)
{
    static const char words[64][10] = {
        "the",     "of",     "and",     "a",    "to",   "in",    "is",    "memory", "that",    "guest",
        "it",      "page",   "for",     "on",   "as",   "with",  "host",  "his",    "they",    "at",
        "be",      "this",   "from",    "have", "or",   "by",    "one",   "had",    "not",     "but",
        "what",    "all",    "were",    "when", "we",   "there", "can",   "an",     "your",    "which",
        "their",   "said",   "if",      "do",   "will", "each",  "about", "how",    "up",      "out",
        "them",    "then",   "she",     "many", "some", "ferry", "moves", "river",  "because", "crossing",
        "between", "people", "harbour", "water"};
    for (unsigned p = 0; p < SC_PHRASES; p++) {
        char *out = (char *)sc_phrases[p];
        uint64_t h = sc_mix(p * 7919u + 1);
        unsigned at = 0;
        while (at < 64) {
            const char *w = words[h & 63];
            h = sc_mix(h);
            while (at < 64 && *w)
                out[at++] = *w++;
            if (at < 64)
                out[at++] = ' ';
        }
    }
}

/* The fill of one page; only `mixed` differs between pages, in runs of 16. */
static inline enum sc_fill sc_kind(enum sc_fill fill, uint64_t page)
{
    if (fill != SC_MIXED)
        return fill;
    switch (sc_mix(page >> 4) & 3) {
    case 0:
        return SC_RANDOM;
    case 1:
        return SC_ZERO;
    default:
        return SC_TEXT;
    }
}

/* Slot `slot` of `page` as written by pass c. */
static inline void sc_slot(enum sc_fill kind, uint64_t page, unsigned slot, uint64_t c,
                           uint64_t out[SC_SLOT_WORDS])
{
    uint64_t h = kind == SC_ZERO ? 0 : sc_mix(page * 64 + slot + (c << 44));
    switch (kind) {
    case SC_TEXT:
        for (unsigned i = 0; i < SC_SLOT_WORDS; i++)
            out[i] = sc_phrases[(h >> 32) * SC_PHRASES >> 32][i];
        break;
    case SC_RANDOM:
        for (unsigned i = 0; i < SC_SLOT_WORDS; i++) {
            h ^= h << 13;
            h ^= h >> 7;
            h ^= h << 17;
            out[i] = h;
        }
        break;
    default:
        for (unsigned i = 0; i < SC_SLOT_WORDS; i++)
            out[i] = 0;
    }
}

/* The hash word beside the counter; a page of zeros that was only filled is zero throughout. */
static inline uint64_t sc_seal(enum sc_fill kind, uint64_t page, uint64_t c)
{
    return kind == SC_ZERO && !c ? 0 : sc_mix(page ^ c << 40);
}

static inline unsigned sc_slot_of(uint64_t c)
{
    return 1 + (unsigned)(c % 63);
}

/* The pass up to c that wrote `slot` last, 0 for the fill. */
static inline uint64_t sc_writer(unsigned slot, uint64_t c)
{
    uint64_t back = (c % 63 + 63 - (slot - 1)) % 63;
    return c > back ? c - back : 0;
}

/* In flip mode a page of an even counter above 0 is zero. */
static inline int sc_is_zero(enum sc_mode mode, uint64_t c)
{
    return mode == SC_FLIP && c && !(c & 1);
}

/* Slot `slot` of `page` at counter c, whole. */
static inline void sc_expect(enum sc_mode mode, enum sc_fill kind, uint64_t page, unsigned slot, uint64_t c,
                             uint64_t out[SC_SLOT_WORDS])
{
    if (sc_is_zero(mode, c)) {
        sc_slot(SC_ZERO, page, slot, c, out);
        return;
    }
    sc_slot(kind, page, slot, slot ? sc_writer(slot, c) : 0, out);
    if (!slot) {
        out[0] = c;
        out[1] = sc_seal(kind, page, c);
    }
}

/* Order of visits: place `index` of pass `pass` over n pages. In shuffle mode an affine permutation, another
 * one each pass; *step is found once a pass by sc_step. */
static inline uint64_t sc_step(enum sc_mode mode, uint64_t pass, uint64_t n)
{
    if (mode != SC_SHUFFLE || n < 3)
        return 1;
    for (uint64_t a = sc_mix(pass) % (n - 1) + 1;; a = a % (n - 1) + 1) {
        uint64_t x = a;
        uint64_t y = n;
        while (y) {
            uint64_t t = x % y;
            x = y;
            y = t;
        }
        if (x == 1)
            return a;
    }
}

static inline uint64_t sc_visit(uint64_t step, uint64_t pass, uint64_t index, uint64_t n)
{
    return step == 1 ? index : (index * step + pass) % n;
}

#endif
