// SPDX-License-Identifier: Apache-2.0
/* The software CPU's decoder: any bytes, in any mode, with any set of features. The first byte is the mode,
 * the next eight are features that are taken away. */
#include <string.h>

#include "hv/cpu/soft/decode.h"
#include "tests/fuzz/fuzz.h"

#define HEAD 9u

static void check(const struct soft_insn *in, int len)
{
    MUST(in->fn == NULL && in->off == 0 && in->len == len);
    MUST(in->row < soft_row_count);
    MUST(in->size == 1 || in->size == 2 || in->size == 4 || in->size == 8);
    MUST(in->asize == 2 || in->asize == 4 || in->asize == 8);
    MUST(in->base <= SOFT_GPR_BLOCK && in->index <= SOFT_GPR_ZERO && in->scale <= 3);
    MUST(in->seg <= SOFT_GS && in->reg < 16 && in->rm < 16 && in->vvvv < 16 && in->cc < 16);
    MUST(in->reg_at < 16 * 8 && in->rm_at < 16 * 8);
    MUST((in->reg_at & 7) <= 1 && (in->rm_at & 7) <= 1);
    MUST(!(in->flags & SOFT_I_LOCK) || (in->flags & SOFT_I_MEM && soft_rows[in->row].flags & SOFT_R_LOCK));
    MUST(!(in->flags & SOFT_I_NF));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t missing;
    if (size < HEAD || size > HEAD + 64)
        return 0;
    enum soft_mode mode = (enum soft_mode)(data[0] % 3);
    memcpy(&missing, data + 1, sizeof missing);
    unsigned n = (unsigned)size - HEAD;
    /* A copy of exact size, so that a read past its end is seen. */
    uint8_t *bytes = malloc(n ? n : 1);
    MUST(bytes);
    memcpy(bytes, data + HEAD, n);
    struct soft_insn whole, part;
    int len = soft_decode(bytes, n, mode, ~missing | 1, &whole);
    MUST(len <= SOFT_INSN_MAX && len <= (int)n && len >= SOFT_DECODE_GP);
    MUST(whole.len <= n && whole.len <= SOFT_INSN_MAX);
    if (len > 0) {
        check(&whole, len);
        MUST(~missing >> soft_rows[whole.row].feature & 1 || soft_rows[whole.row].feature == SOFT_F_BASE);
    }
    for (unsigned k = 0; k < n; k++) {
        int r = soft_decode(bytes, k, mode, ~missing | 1, &part);
        MUST(r == SOFT_DECODE_MORE || r == len);
        MUST(part.len <= k);
        if (r > 0)
            MUST(!memcmp(&part, &whole, sizeof part));
    }
    free(bytes);
    return 0;
}
