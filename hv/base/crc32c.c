// SPDX-License-Identifier: Apache-2.0
#include "hv/base/crc32c.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#define POLY 0x82f63b78u /* Castagnoli, reflected */
#define LANE 1024        /* bytes of each of the three interleaved streams */

static uint32_t table[8][256];
static uint32_t shift_lane[4][256]; /* advances a CRC over LANE zero bytes */
static bool have_sse42;
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

uint32_t fy_crc32c(uint32_t crc, const void *buf, size_t len)
{
    pthread_once(&once, init);
    return ~(have_sse42 ? hard(~crc, buf, len) : soft(~crc, buf, len));
}
