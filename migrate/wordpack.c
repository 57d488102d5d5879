// SPDX-License-Identifier: Apache-2.0
/* The format is the LZ4 project's lz4_Block_format.md. What is done here is Ferry's own: memory is made of
 * words, so one table finds eight bytes that begin at a multiple of eight, and where words repeat, sequences
 * follow each other without a literal between them (follow_words). That loop neither waits for the length of
 * one match to look for the next nor guesses it by branches: it takes the stride of the last step for the
 * next one and corrects itself. A second table finds five bytes anywhere, for what lies between. Greedy;
 * blocks do not depend on each other. */
#include "migrate/wordpack.h"

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "hv/base/checked.h"

#define MIN_MATCH 4
/* The format's: the last five bytes are literals, and no match begins in the last twelve. Sixteen here, so
 * that literals may be copied by sixteens. */
#define LAST_LITERALS 5
#define MATCH_MARGIN 16
#define MAX_DISTANCE 65535
/* Misses after which the search begins to take longer steps, as a power of two. */
#define SKIP_SHIFT 6
/* Compared at once by follow_words: few matches are longer. */
#define AHEAD 96
#define LONG_MATCH 64
/* What a sequence takes beside its literals and the length bytes beyond the first. */
#define SEQUENCE_ROOM 32
/* After this much it is known whether words repeat: they must have covered half of it. */
#define TRIAL (32u << 10)

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define TARGET_AVX2 __attribute__((target("avx2,bmi,bmi2")))

typedef size_t ahead_fn(const uint8_t *a, const uint8_t *b);

/* Positions count from src. */
struct pack {
    struct fy_wordpack *w;
    const uint8_t *src;
    size_t limit;     /* no match begins from here on */
    size_t match_end; /* nor reaches beyond here */
    uint8_t *op;
    const uint8_t *end;
    size_t anchor;  /* what lies before is written */
    size_t covered; /* of it, by words and long matches */
};

ALWAYS_INLINE uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

ALWAYS_INLINE uint32_t load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

ALWAYS_INLINE unsigned hash_word(uint64_t v)
{
    return (unsigned)((v * 0x9e3779b97f4a7c15ull) >> (64 - FY_WORDPACK_WORD_BITS));
}

ALWAYS_INLINE unsigned hash_bytes(uint64_t v)
{
    return (unsigned)(((v << 24) * 0x9e3779b97f4a7c15ull) >> (64 - FY_WORDPACK_BYTE_BITS));
}

/* --- comparing
 * ----------------------------------------------------------------------------------------------- */

/* A bit for each of 16 bytes that are equal at a and b. */
ALWAYS_INLINE uint64_t equal16(const uint8_t *a, const uint8_t *b)
{
    __m128i x = _mm_loadu_si128((const __m128i *)a);
    __m128i y = _mm_loadu_si128((const __m128i *)b);
    return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(x, y));
}

/* Equal bytes at positions a and b, a up to match_end. */
ALWAYS_INLINE size_t equal(const struct pack *k, size_t a, size_t b)
{
    size_t n = 0;
    for (; a + n + 16 <= k->match_end; n += 16) {
        uint64_t differ = equal16(k->src + a + n, k->src + b + n) ^ 0xffff;
        if (differ)
            return n + (size_t)__builtin_ctzll(differ);
    }
    while (a + n < k->match_end && k->src[a + n] == k->src[b + n])
        n++;
    return n;
}

/* Equal bytes at a and b, at most AHEAD, which may be read. */
static inline size_t ahead_sse2(const uint8_t *a, const uint8_t *b)
{
    uint64_t low = ~(equal16(a, b) | equal16(a + 16, b + 16) << 16 | equal16(a + 32, b + 32) << 32 |
                     equal16(a + 48, b + 48) << 48);
    uint64_t high = ~(equal16(a + 64, b + 64) | equal16(a + 80, b + 80) << 16);
    return low ? (size_t)__builtin_ctzll(low) : 64 + (size_t)__builtin_ctzll(high);
}

TARGET_AVX2 static inline uint64_t equal32(const uint8_t *a, const uint8_t *b)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)a);
    __m256i y = _mm256_loadu_si256((const __m256i *)b);
    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, y));
}

TARGET_AVX2 static inline size_t ahead_avx2(const uint8_t *a, const uint8_t *b)
{
    uint64_t low = ~(equal32(a, b) | equal32(a + 32, b + 32) << 32);
    uint64_t high = ~equal32(a + 64, b + 64);
    return low ? (size_t)__builtin_ctzll(low) : 64 + (size_t)__builtin_ctzll(high);
}

/* --- looking
 * ------------------------------------------------------------------------------------------------- */

/* An entry of a table that was never set is 0: the place is looked at like any other, and at 0 itself nothing
 * lies before. Returns `at` when nothing is found in reach. */
ALWAYS_INLINE size_t find_word(const struct pack *k, size_t at)
{
    uint64_t v = load64(k->src + at);
    uint32_t *slot = &k->w->word[hash_word(v)];
    size_t from = *slot;
    *slot = (uint32_t)at;
    return from < at && at - from <= MAX_DISTANCE && load64(k->src + from) == v ? from : at;
}

ALWAYS_INLINE size_t find_bytes(const struct pack *k, size_t at)
{
    uint64_t v = load64(k->src + at);
    uint32_t *slot = &k->w->byte[hash_bytes(v)];
    size_t from = *slot;
    *slot = (uint32_t)at;
    return from < at && at - from <= MAX_DISTANCE && load32(k->src + from) == (uint32_t)v ? from : at;
}

ALWAYS_INLINE void keep_word(const struct pack *k, size_t at)
{
    k->w->word[hash_word(load64(k->src + at))] = (uint32_t)at;
}

/* The first match from *at on; false when there is none before the limit. */
ALWAYS_INLINE bool search(const struct pack *k, size_t *at, size_t *from)
{
    unsigned misses = 1u << SKIP_SHIFT;
    for (size_t p = *at; p < k->limit; p += misses++ >> SKIP_SHIFT) {
        *at = p;
        if (p % 8 == 0 && (*from = find_word(k, p)) != p)
            return true;
        if ((*from = find_bytes(k, p)) != p)
            return true;
    }
    *at = FY_MAX(*at, k->limit);
    return false;
}

/* --- writing
 * ------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE uint8_t *put_length(uint8_t *op, size_t rest)
{
    for (; rest >= 255; rest -= 255)
        *op++ = 255;
    *op++ = (uint8_t)rest;
    return op;
}

/* The literals from anchor to `at`, then a match. false: it does not fit. */
ALWAYS_INLINE bool put_sequence(struct pack *k, size_t at, size_t distance, size_t match)
{
    size_t count = at - k->anchor;
    const uint8_t *literals = k->src + k->anchor;
    uint8_t *op = k->op;
    if ((size_t)(k->end - op) < count + count / 255 + match / 255 + SEQUENCE_ROOM)
        return false;
    size_t more = match - MIN_MATCH;
    *op++ = (uint8_t)(FY_MIN(count, (size_t)15) << 4 | FY_MIN(more, (size_t)15));
    if (count >= 15)
        op = put_length(op, count - 15);
    for (size_t i = 0; i < count; i += 16)
        _mm_storeu_si128((__m128i *)(op + i), _mm_loadu_si128((const __m128i *)(literals + i)));
    op += count;
    *op++ = (uint8_t)distance;
    *op++ = (uint8_t)(distance >> 8);
    k->op = more >= 15 ? put_length(op, more - 15) : op;
    k->anchor = at + match;
    return true;
}

ALWAYS_INLINE size_t put_last(const struct pack *k, const uint8_t *dst, size_t len)
{
    size_t count = len - k->anchor;
    uint8_t *op = k->op;
    if ((size_t)(k->end - op) < count + count / 255 + 2)
        return 0;
    *op++ = (uint8_t)(FY_MIN(count, (size_t)15) << 4);
    if (count >= 15)
        op = put_length(op, count - 15);
    memcpy(op, k->src + k->anchor, count);
    return (size_t)(op - dst) + count;
}

/* A sequence without literals, of a match of less than AHEAD bytes: four bytes, of which three or four count.
 */
ALWAYS_INLINE uint8_t *put_match(uint8_t *op, size_t distance, size_t match)
{
    size_t more = match - MIN_MATCH;
    uint32_t v = (uint32_t)(FY_MIN(more, (size_t)15) | distance << 8 | (more - 15) << 24);
    memcpy(op, &v, sizeof v);
    return op + 3 + (more >= 15);
}

/* --- packing
 * ------------------------------------------------------------------------------------------------- */

/* Sequences without literals from the anchor on, as long as words are found again. The word that the anchor
 * lies in is looked up whole: its beginning may have gone with the match before. false: no room. */
ALWAYS_INLINE bool follow_words(struct pack *k, ahead_fn *ahead)
{
    const uint8_t *src = k->src;
    size_t start = k->anchor;
    size_t p = start;
    size_t word = p & ~(size_t)7;
    size_t stride = LONG_MATCH;
    while (p < k->limit && p + AHEAD <= k->match_end && k->end - k->op >= SEQUENCE_ROOM) {
        size_t from = find_word(k, word);
        size_t same = ahead(src + word, src + from);
        if (from == word || same < p - word + MIN_MATCH)
            break;
        if (same >= LONG_MATCH) {
            keep_word(k, word + 16);
            keep_word(k, word + 32);
            keep_word(k, word + 48);
        }
        if (same < AHEAD) {
            k->op = put_match(k->op, word - from, same - (p - word));
        } else {
            same += equal(k, word + AHEAD, from + AHEAD);
            k->anchor = p;
            if (!put_sequence(k, p, word - from, same - (p - word)))
                return false;
        }
        p = word + same;
        size_t next = p & ~(size_t)7;
        if (next == word + stride) {
            /* The same value, but known without waiting for `same`; the compiler must not see that. */
            word += stride;
            __asm__("" : "+r"(word));
        } else {
            stride = next - word;
            word = next;
        }
    }
    k->covered += p - start;
    k->anchor = p;
    return true;
}

ALWAYS_INLINE size_t pack(struct fy_wordpack *w, const uint8_t *src, size_t len, uint8_t *dst, size_t room,
                          ahead_fn *ahead)
{
    size_t limit = len > MATCH_MARGIN ? len - MATCH_MARGIN : 0;
    struct pack k = {.w = w,
                     .src = src,
                     .limit = FY_MIN(limit, (size_t)TRIAL),
                     .match_end = len > MATCH_MARGIN ? len - LAST_LITERALS : 0,
                     .op = dst,
                     .end = dst + room};
    size_t at = 1;
    size_t from;
    memset(w, 0, sizeof *w);
    for (;;) {
        if (!search(&k, &at, &from)) {
            if (k.limit == limit)
                break;
            if (k.covered < TRIAL / 2)
                return 0;
            k.limit = limit;
            continue;
        }
        size_t match = equal(&k, at, from);
        for (; at > k.anchor && from && src[at - 1] == src[from - 1]; match++) {
            at--;
            from--;
        }
        if (match >= LONG_MATCH)
            k.covered += match;
        if (!put_sequence(&k, at, at - from, match) || !follow_words(&k, ahead))
            return 0;
        at = k.anchor;
        if (at < k.limit)
            w->byte[hash_bytes(load64(src + at - 2))] = (uint32_t)(at - 2);
    }
    return put_last(&k, dst, len);
}

TARGET_AVX2 static size_t pack_avx2(struct fy_wordpack *w, const uint8_t *src, size_t len, uint8_t *dst,
                                    size_t room)
{
    return pack(w, src, len, dst, room, ahead_avx2);
}

static size_t pack_sse2(struct fy_wordpack *w, const uint8_t *src, size_t len, uint8_t *dst, size_t room)
{
    return pack(w, src, len, dst, room, ahead_sse2);
}

size_t fy_wordpack(struct fy_wordpack *w, const uint8_t *src, size_t len, uint8_t *dst, size_t room)
{
    if (len > FY_WORDPACK_MAX)
        return 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("bmi")
               ? pack_avx2(w, src, len, dst, room)
               : pack_sse2(w, src, len, dst, room);
}
