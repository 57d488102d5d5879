// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/soft/optable.h"
#include "hv/cpu/soft/x_fuse.h"

#define ROWS_MAX 4096u

static enum x_mnemonic look(soft_fn fn)
{
    static const struct {
        soft_fn fn;
        enum x_mnemonic m;
    } all[] = {
        {soft_x_mov, X_M_MOV},     {soft_x_movzx, X_M_MOVZX}, {soft_x_add, X_M_ADD}, {soft_x_sub, X_M_SUB},
        {soft_x_xor, X_M_XOR},     {soft_x_and, X_M_AND},     {soft_x_or, X_M_OR},   {soft_x_cmp, X_M_CMP},
        {soft_x_test, X_M_TEST},   {soft_x_inc, X_M_INC},     {soft_x_dec, X_M_DEC}, {soft_x_shl, X_M_SHL},
        {soft_x_shr, X_M_SHR},     {soft_x_rol, X_M_ROL},     {soft_x_ror, X_M_ROR}, {soft_x_lea, X_M_LEA},
        {soft_x_imul2, X_M_IMUL2}, {soft_x_push, X_M_PUSH},   {soft_x_pop, X_M_POP}, {soft_x_jcc, X_M_JCC},
    };
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].fn == fn)
            return all[i].m;
    return X_M_OTHER;
}

enum x_mnemonic x_mnemonic_of(const struct soft_insn *in)
{
    static uint8_t known[ROWS_MAX]; /* filled by whoever comes first: all write the same */
    uint8_t m;
    if (in->row >= ROWS_MAX)
        return X_M_OTHER;
    m = __atomic_load_n(&known[in->row], __ATOMIC_RELAXED);
    if (m == X_M_UNKNOWN) {
        m = (uint8_t)look(soft_rows[in->row].handler);
        __atomic_store_n(&known[in->row], m, __ATOMIC_RELAXED);
    }
    return (enum x_mnemonic)m;
}

unsigned soft_fuse_int(struct soft_insn *ins, unsigned n)
{
    unsigned fused = 0;
    for (unsigned i = 0; i + 1 < n; i++) {
        soft_fn fn = NULL;
        if (ins[i].fn || ins[i].ea || ins[i + 1].ea || ((ins[i].flags | ins[i + 1].flags) & SOFT_I_LOCK))
            continue;
        if (x_mnemonic_of(&ins[i + 1]) == X_M_JCC)
            fn = x_fuse_jcc(&ins[i]);
        else if (i + 2 >= n || x_mnemonic_of(&ins[i + 2]) != X_M_JCC || !x_fuse_jcc(&ins[i + 1]))
            fn = x_fuse_pair(&ins[i]);
        if (fn) {
            ins[i].fn = fn;
            fused++;
            i++;
        }
    }
    return fused;
}
