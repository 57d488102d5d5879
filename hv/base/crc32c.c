// SPDX-License-Identifier: Apache-2.0
#include "hv/base/crc32c.h"

#include <immintrin.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#define POLY 0x82f63b78u /* Castagnoli, reflected */
#define LANE 1024        /* bytes of each of the three interleaved streams */

static uint32_t table[8][256];
static uint32_t shift_lane[4][256]; /* advances a CRC over LANE zero bytes */
static bool have_sse42, have_fold;
static uint64_t fold_2048[2], fold_512[2], fold_128[2];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t soft(uint32_t crc, const unsigned char *p, size_t len)
{
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        v ^= crc;
        crc = 0;
        for (int i = 0; i < 8; i++)
            crc ^= table[7 - i][v >> (8 * i) & 0xff];
    }
    while (len--)
        crc = table[0][(crc ^ *p++) & 0xff] ^ crc >> 8;
    return crc;
}

/* x^n mod P, coefficient of x^j in bit 63 - j. */
static uint64_t power(unsigned n)
{
    uint32_t v = 0x80000000u;
    while (n--)
        v = v & 1 ? POLY ^ v >> 1 : v >> 1;
    return (uint64_t)v << 32;
}

/* What takes a 128-bit lane `bits` further: its first and its second 64 bits, each times x by the carry-less
 * product's own place. */
static void fold_by(uint64_t k[2], unsigned bits)
{
    k[0] = power(bits + 63);
    k[1] = power(bits - 1);
}

static void init(void)
{
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t c = n;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? POLY ^ c >> 1 : c >> 1;
        table[0][n] = c;
    }
    for (uint32_t n = 0; n < 256; n++)
        for (int t = 1; t < 8; t++)
            table[t][n] = table[0][table[t - 1][n] & 0xff] ^ table[t - 1][n] >> 8;
    /* The CRC register is linear over GF(2): the effect of LANE zero bytes on each bit, summed. */
    static const unsigned char zeros[LANE];
    for (int b = 0; b < 4; b++)
        for (uint32_t n = 0; n < 256; n++)
            shift_lane[b][n] = soft(n << (8 * b), zeros, LANE);
    have_sse42 = __builtin_cpu_supports("sse4.2");
    have_fold = have_sse42 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
    fold_by(fold_2048, 2048);
    fold_by(fold_512, 512);
    fold_by(fold_128, 128);
}

static uint32_t advance(uint32_t crc)
{
    return shift_lane[0][crc & 0xff] ^ shift_lane[1][crc >> 8 & 0xff] ^ shift_lane[2][crc >> 16 & 0xff] ^
           shift_lane[3][crc >> 24];
}

static inline uint64_t load(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* The instruction has a latency of three cycles and a throughput of one: three streams hide it. */
__attribute__((target("sse4.2"))) static uint32_t hard(uint32_t crc, const unsigned char *p, size_t len)
{
    uint64_t a = crc;
    for (; len >= 3 * LANE; p += 3 * LANE, len -= 3 * LANE) {
        uint64_t b = 0;
        uint64_t c = 0;
        for (size_t i = 0; i < LANE; i += 8) {
            a = __builtin_ia32_crc32di(a, load(p + i));
            b = __builtin_ia32_crc32di(b, load(p + LANE + i));
            c = __builtin_ia32_crc32di(c, load(p + 2 * LANE + i));
        }
        a = advance(advance((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
    }
    for (; len >= 8; p += 8, len -= 8)
        a = __builtin_ia32_crc32di(a, load(p));
    uint32_t r = (uint32_t)a;
    while (len--)
        r = __builtin_ia32_crc32qi(r, *p++);
    return r;
}

#define FOLD __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2")))
#define FOLD_MIN 1024

FOLD static inline __m512i fold4(__m512i x, __m512i k, __m512i next)
{
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, k, 0x00),
                                     _mm512_clmulepi64_epi128(x, k, 0x11), next, 0x96);
}

FOLD static inline __m128i fold1(__m128i x, __m128i k, __m128i next)
{
    return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)),
                         next);
}

FOLD static inline __m512i constants(const uint64_t k[2])
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)k));
}

/* Sixteen lanes of 128 bits, each folded onto the bytes 256 further on: Gopal et al., Fast CRC computation
 * for generic polynomials using PCLMULQDQ, Intel 2009. Three times as fast as the instruction. */
FOLD static uint32_t fold(uint32_t crc, const unsigned char *p, size_t len)
{
    const __m512i far = constants(fold_2048);
    __m512i x[4];
    for (int i = 0; i < 4; i++)
        x[i] = _mm512_loadu_si512(p + 64 * i);
    x[0] = _mm512_xor_si512(x[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
    for (p += 256, len -= 256; len >= 256; p += 256, len -= 256)
        for (int i = 0; i < 4; i++)
            x[i] = fold4(x[i], far, _mm512_loadu_si512(p + 64 * i));
    const __m512i near = constants(fold_512);
    for (int i = 1; i < 4; i++)
        x[i] = fold4(x[i - 1], near, x[i]);
    unsigned char lanes[64];
    _mm512_storeu_si512(lanes, x[3]);
    const __m128i next = _mm_loadu_si128((const __m128i *)fold_128);
    __m128i y = _mm_loadu_si128((const __m128i *)lanes);
    for (int i = 1; i < 4; i++)
        y = fold1(y, next, _mm_loadu_si128((const __m128i *)(lanes + 16 * i)));
    _mm_storeu_si128((__m128i *)lanes, y);
    return hard(hard(0, lanes, 16), p, len);
}

uint32_t fy_crc32c(uint32_t crc, const void *buf, size_t len)
{
    pthread_once(&once, init);
    if (have_fold && len >= FOLD_MIN)
        return ~fold(~crc, buf, len);
    return ~(have_sse42 ? hard(~crc, buf, len) : soft(~crc, buf, len));
}
