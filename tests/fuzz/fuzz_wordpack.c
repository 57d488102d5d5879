// SPDX-License-Identifier: Apache-2.0
/* The LZ4 block encoder. The first two bytes say how long the source is made (by repeating the input, each
 * time with one byte changed) and how much room there is; the library unpacks what comes. */
#include <string.h>

#include "migrate/codec.h"
#include "migrate/wordpack.h"
#include "tests/fuzz/fuzz.h"

#define LONGEST (80u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fy_wordpack scratch;
    static uint8_t back[LONGEST];
    if (size < 3)
        return 0;
    size_t len = (size_t)data[0] * 320 % (LONGEST - 1) + 1;
    size_t room = data[1] == 255 ? LONGEST + 1024 : len * data[1] / 255;
    /* Blocks of their own, so that a sanitizer sees a byte beyond either. */
    uint8_t *src = malloc(len);
    uint8_t *dst = malloc(room + 1);
    MUST(src && dst);
    for (size_t at = 0, k = 0; at < len; at += size - 2, k++) {
        size_t n = size - 2 < len - at ? size - 2 : len - at;
        memcpy(src + at, data + 2, n);
        src[at + k * 37 % n] ^= (uint8_t)(k * k);
    }
    size_t n = fy_wordpack(&scratch, src, len, dst, room);
    MUST(n <= room);
    MUST(!n || (fy_lz4_unpack(dst, n, back, len) == 0 && !memcmp(src, back, len)));
    free(src);
    free(dst);
    return 0;
}
