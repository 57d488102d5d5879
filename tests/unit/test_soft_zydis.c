// SPDX-License-Identifier: Apache-2.0
/* The decoder against the disassembler library Zydis: which bytes are an instruction, how long it is, which
 * one, its registers, memory operand, immediates, prefixes, and the flags that its row says it reads and
 * writes. On a million byte strings a mode, half of them random, half made from the table (soft_bytes.h),
 * fixed seed. What differs on purpose is sorted by rule and counted; anything else fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <Zydis/Zydis.h>
#include <cmocka.h>

#include "tests/unit/soft_bytes.h"

#define ROUNDS 1000000u

struct pair {
    enum soft_mode mode;
    const uint8_t *bytes;
    struct soft_insn in;
    const struct soft_row *row;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    char why[160];
};

static bool reached[SOFT_ROWS_MAX];
static unsigned complaints;

/* ---- what Ferry does not offer ---- */

struct rule {
    const char *name;
    unsigned count;
};
enum { R_FLAGS, R_BASE, R_EVEX, R_XOP, R_3DNOW, R_KNC, R_ISA, R_RSM, R_PAUSE, R_COUNT };
static struct rule rules[R_COUNT] = {{"flags where Zydis's table is coarser (see coarse_flags)", 0},
                                     {"67, REX.B, mod 0, SIB base 5: no base (as CPUs do), R13 to Zydis", 0},
                                     {"EVEX", 0},
                                     {"XOP", 0},
                                     {"3DNow!", 0},
                                     {"MVEX and KNC", 0},
                                     {"instruction set that is not offered", 0},
                                     {"RSM: #UD outside SMM", 0},
                                     {"F3 90 with REX.B: XCHG (as CPUs do), PAUSE to Zydis", 0}};

static bool not_offered(const ZydisDecodedInstruction *z)
{
    static const char *const sets[] = {
        "AMD3DNOW", "SGX",        "SGX_ENCLV", "SERIALIZE", "PKU",  "MOVDIR",  "ENQCMD", "CLZERO", "MONITORX",
        "RDPRU",    "TSX_LDTRK",  "KEYLOCKER", "CET",       "VAES", "WAITPKG", "VTX",    "SSE4A",  "RTM",
        "XSAVES",   "VPCLMULQDQ", "UINTR",     "SVM",       "SMX",  "PT",      "FMA4"};
    const char *isa = ZydisISASetGetString(z->meta.isa_set);
    for (unsigned i = 0; i < sizeof sets / sizeof *sets; i++)
        if (!strcmp(isa, sets[i]))
            return true;
    return false;
}

static int rule_of(const ZydisDecodedInstruction *z)
{
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
        return R_EVEX;
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP)
        return R_XOP;
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW)
        return R_3DNOW;
    if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
        !strncmp(ZydisISASetGetString(z->meta.isa_set), "KNC", 3))
        return R_KNC;
    if (z->mnemonic == ZYDIS_MNEMONIC_RSM)
        return R_RSM;
    return not_offered(z) ? R_ISA : -1;
}

/* ---- one pair ---- */

#define FAIL(...) return snprintf(p->why, sizeof p->why, __VA_ARGS__), false

/* The row's name is Zydis's, or begins it, or is on the list. */
static bool same_name(struct pair *p)
{
    static const struct {
        const char *ours, *theirs;
    } alias[] = {{"cwd", "cdq"},
                 {"cwd", "cqo"},
                 {"cbw", "cwde"},
                 {"cbw", "cdqe"},
                 {"jcxz", "jecxz"},
                 {"jcxz", "jrcxz"},
                 {"vmcall", "vmmcall"},
                 {"nop", "pause"},
                 {"fneni", "feni8087_nop"},
                 {"fndisi", "fdisi8087_nop"},
                 {"fnsetpm", "fsetpm287_nop"},
                 {"fstp1", "fstpnce"}};
    const char *ours = p->row->name, *theirs = ZydisMnemonicGetString(p->z.mnemonic);
    for (unsigned i = 0; i < sizeof alias / sizeof *alias; i++)
        if (!strcmp(ours, alias[i].ours) && !strcmp(theirs, alias[i].theirs))
            return true;
    size_t n = strcspn(ours, "_");
    if (!strcmp(ours, theirs))
        return true;
    while (n && ours[n - 1] >= '0' && ours[n - 1] <= '9') /* imul3, fxch7 */
        n--;
    /* A size at the end: movsb, iretq, fxsave64. Not for SIMD, whose names are whole. */
    if (p->row->flags & SOFT_R_SIMD || strncmp(ours, theirs, n) != 0 ||
        (strcmp(theirs + n, "64") != 0 && strspn(theirs + n, "bwdq") < strlen(theirs + n)) ||
        strlen(theirs + n) > 2)
        FAIL("%s is %s to Zydis", ours, theirs);
    return true;
}

static int slot(ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_NONE)
        return SOFT_GPR_ZERO;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return SOFT_GPR_BLOCK;
    return ZydisRegisterGetId(r);
}

static bool same_memory(struct pair *p, const ZydisDecodedOperand *op)
{
    const struct soft_insn *in = &p->in;
    static const uint8_t scale[] = {0, 0, 1, 0, 2, 0, 0, 0, 3};
    int64_t disp = p->z.raw.disp.size ? p->z.raw.disp.value : 0;
    if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP)
        disp += p->z.length;
    if (!strchr(p->row->operands, 'O') && in->disp != disp)
        FAIL("displacement %lx, Zydis %lx", (long)in->disp, (long)disp);
    if (p->mode == SOFT_64 && in->asize == 4 && in->base == SOFT_GPR_ZERO && !p->z.raw.modrm.mod &&
        p->z.raw.sib.base == 5)
        rules[R_BASE].count++;
    else if (in->base != slot(op->mem.base) || in->index != slot(op->mem.index) ||
             in->scale != scale[op->mem.scale & 15])
        FAIL("base %u index %u scale %u, Zydis %d %d %u", in->base, in->index, in->scale, slot(op->mem.base),
             slot(op->mem.index), op->mem.scale);
    unsigned seg = (unsigned)(op->mem.segment - ZYDIS_REGISTER_ES);
    if (op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
        return true;
    if (p->mode == SOFT_64 && seg < SOFT_FS ? in->seg >= SOFT_FS : in->seg != seg)
        FAIL("segment %u, Zydis %u", in->seg, seg);
    unsigned ea = (in->asize < 8 ? SOFT_EA_WRAP : 0) |
                  (p->mode != SOFT_64 ? SOFT_EA_SEG | SOFT_EA_LEGACY : 0) |
                  (in->seg >= SOFT_FS ? SOFT_EA_SEG : 0);
    if (in->ea != ea)
        FAIL("ea %x, expected %x", in->ea, ea);
    return true;
}

/* Byte offset in the register file of an integer register. */
static unsigned offset_of(ZydisRegister r, ZydisMachineMode mode)
{
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
        return (unsigned)(r - ZYDIS_REGISTER_AH) * 8 + 1;
    return (unsigned)ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(mode, r)) * 8;
}

static bool same_register(struct pair *p, const ZydisDecodedOperand *op)
{
    const struct soft_insn *in = &p->in;
    ZydisRegister r = op->reg.value;
    ZydisRegisterClass class = ZydisRegisterGetClass(r);
    bool gpr = class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 ||
               class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
    unsigned id = (unsigned)ZydisRegisterGetId(r), at = gpr ? offset_of(r, p->z.machine_mode) : 0;
    if (gpr)
        id = at & 1 ? at / 8 + 4 : at / 8;
    switch (op->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        if (in->reg != id || (gpr && in->reg_at != at))
            FAIL("reg %u at %u, Zydis %u %u", in->reg, in->reg_at, id, at);
        return true;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        if (in->rm != id || (gpr && in->rm_at != at))
            FAIL("rm %u at %u, Zydis %u %u", in->rm, in->rm_at, id, at);
        return true;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
        if (!(p->row->flags & SOFT_R_X87) && gpr && (in->reg != id || in->reg_at != at))
            FAIL("opcode's register %u at %u, Zydis %u %u", in->reg, in->reg_at, id, at);
        return true;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        if (in->vvvv != id)
            FAIL("vvvv %u, Zydis %u", in->vvvv, id);
        return true;
    case ZYDIS_OPERAND_ENCODING_IS4:
        if (in->imm2 != id)
            FAIL("is4 %u, Zydis %u", in->imm2, id);
        return true;
    default:
        return true;
    }
}

static bool same_operands(struct pair *p)
{
    const struct soft_insn *in = &p->in;
    bool memory = false;
    for (unsigned i = 0; i < p->z.operand_count; i++) {
        const ZydisDecodedOperand *op = &p->ops[i];
        if (op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            continue;
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            memory = true;
            if (!same_memory(p, op))
                return false;
        } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && !same_register(p, op)) {
            return false;
        } else if (op->type == ZYDIS_OPERAND_TYPE_POINTER &&
                   (in->imm != op->ptr.offset || in->imm2 != op->ptr.segment)) {
            FAIL("far pointer %x:%lx", in->imm2, (long)in->imm);
        }
    }
    if (memory != ((in->flags & SOFT_I_MEM) != 0))
        FAIL("memory operand: %d", !memory);
    return true;
}

static bool same_immediates(struct pair *p)
{
    const struct soft_insn *in = &p->in;
    bool imm2 = p->row->map == SOFT_M1 && p->row->opcode == 0xc8;
    unsigned kind = soft_index_get()->forms[in->row].imm;
    bool extended = kind == SOFT_IMM_SB || kind == SOFT_IMM_Z;
    uint64_t moffs = strchr(p->row->operands, 'O') ? (uint64_t)in->disp : in->imm;
    for (unsigned i = 0; i < 2; i++) {
        unsigned bits = p->z.raw.imm[i].size;
        uint64_t ours = i ? in->imm2 : moffs, mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
        uint64_t theirs = p->z.raw.imm[i].value.u;
        if (!bits || (i && !imm2) || strchr(p->row->operands, 'A'))
            continue;
        if ((ours & mask) != (theirs & mask))
            FAIL("immediate %u: %lx, Zydis %lx", i, (long)ours, (long)theirs);
        if (extended && p->z.raw.imm[i].is_signed && ours != theirs)
            FAIL("immediate %u is not sign-extended: %lx", i, (long)ours);
    }
    return true;
}

static bool same_prefixes(struct pair *p)
{
    const struct soft_insn *in = &p->in;
    ZydisInstructionAttributes a = p->z.attributes;
    bool lock = a & ZYDIS_ATTRIB_HAS_LOCK, rep = a & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE);
    if (lock != ((in->flags & SOFT_I_LOCK) != 0))
        FAIL("LOCK: %d", !lock);
    if (p->row->flags & SOFT_R_REP && rep != ((in->flags & SOFT_I_REP) != 0) && !(in->flags & SOFT_I_REPNE))
        FAIL("REP: %d", !rep);
    if (in->asize * 8 != p->z.address_width)
        FAIL("address size %u, Zydis %u", in->asize, p->z.address_width);
    if (in->opcode != p->z.opcode)
        FAIL("opcode %x, Zydis %x", in->opcode, p->z.opcode);
    unsigned m = p->z.raw.modrm.mod << 6u | p->z.raw.modrm.reg << 3u | p->z.raw.modrm.rm;
    if (p->z.attributes & ZYDIS_ATTRIB_HAS_MODRM && in->modrm != m)
        FAIL("ModRM %x, Zydis %x", in->modrm, m);
    bool vex = p->z.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    if (vex != ((in->flags & SOFT_I_VEX) != 0) ||
        (vex && p->z.raw.vex.L != ((in->flags & SOFT_I_VL256) != 0)))
        FAIL("VEX");
    return true;
}

/* The size of an instruction whose first operand is a general register or memory of that size. */
static bool same_size(struct pair *p)
{
    const char *o = p->row->operands;
    bool sized = *o && strchr("EGZ", o[0]) && strchr("bvzy", o[1]);
    if (!sized || p->row->flags & SOFT_R_SIMD || p->row->map == SOFT_V0F38 ||
        !strncmp(p->row->name, "ud", 2) || !strcmp(p->row->name, "nop") || !strcmp(p->row->name, "crc32"))
        return true;
    if (p->ops[0].size && p->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && p->in.size * 8 != p->ops[0].size)
        FAIL("size %u, Zydis %u", p->in.size, p->ops[0].size);
    return true;
}

/* Zydis: AF is undefined after SBB; OF after a shift whatever the count; CF and OF after BEXTR; VPTEST and
 * VTESTPS write two flags, PTEST all; SYSCALL and VMCALL write flags. The SDM says otherwise, or it is not
 * the guest's own business (SYSCALL's mask, VMCALL). */
static bool coarse_flags(const struct soft_row *r)
{
    static const char *const names[] = {"sbb", "syscall", "bextr", "vptest", "vtestps", "vtestpd", "vmcall"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(r->name, names[i]))
            return true;
    return r->map == SOFT_M1 && (r->opcode == 0xd0 || r->opcode == 0xd1);
}

static bool same_flags(struct pair *p)
{
    if (!p->z.cpu_flags)
        return true;
    if (coarse_flags(p->row)) {
        rules[R_FLAGS].count++;
        return true;
    }
    const ZydisAccessedFlags *f = p->z.cpu_flags;
    unsigned writes = (f->modified | f->set_0 | f->set_1 | f->undefined) & SOFT_ARITH;
    unsigned undefined = f->undefined & SOFT_ARITH, reads = f->tested & SOFT_ARITH;
    const struct soft_row *r = p->row;
    if (((unsigned)(r->writes | r->undefined)) != writes || r->undefined != undefined ||
        (reads & ~(unsigned)r->reads))
        FAIL("flags r %x w %x u %x, Zydis r %x w %x u %x", r->reads, r->writes | r->undefined, r->undefined,
             reads, writes, undefined);
    return true;
}

static void complain(struct pair *p)
{
    static const unsigned modes[] = {16, 32, 64};
    if (complaints++ > 40)
        return;
    printf("%u bits:", modes[p->mode]);
    for (unsigned i = 0; i < 15; i++)
        printf(" %02x", p->bytes[i]);
    printf(": %s\n", p->why);
}

static bool compare(struct pair *p, int len)
{
    p->row = &soft_rows[p->in.row];
    reached[p->in.row] = true;
    if (p->z.mnemonic == ZYDIS_MNEMONIC_PAUSE && !strcmp(p->row->name, "xchg")) {
        rules[R_PAUSE].count++;
        return len == p->z.length;
    }
    if (len != p->z.length)
        FAIL("%s %s: length %d, Zydis %u", p->row->name, p->row->operands, len, p->z.length);
    char why[sizeof p->why];
    if (same_name(p) && same_operands(p) && same_immediates(p) && same_prefixes(p) && same_size(p) &&
        same_flags(p))
        return true;
    memcpy(why, p->why, sizeof why);
    FAIL("%s %s: %.120s", p->row->name, p->row->operands, why);
}

static bool one(const ZydisDecoder *d, struct pair *p)
{
    int len = soft_decode(p->bytes, 32, p->mode, ~0ull, &p->in);
    bool theirs = ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, p->bytes, 15, &p->z, p->ops));
    if (len > 0 && theirs)
        return compare(p, len);
    if (len > 0)
        FAIL("%s %s is no instruction to Zydis", soft_rows[p->in.row].name, soft_rows[p->in.row].operands);
    if (!theirs)
        return true;
    int rule = rule_of(&p->z);
    if (rule < 0)
        FAIL("not decoded (%d): %s of %s", len, ZydisMnemonicGetString(p->z.mnemonic),
             ZydisISASetGetString(p->z.meta.isa_set));
    rules[rule].count++;
    return true;
}

static void against_zydis(void **state)
{
    static const ZydisMachineMode machine[] = {ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
                                               ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_MACHINE_MODE_LONG_64};
    static const ZydisStackWidth stack[] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64};
    static const ZydisDecoderMode off[] = {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET,
                                           ZYDIS_DECODER_MODE_WBNOINVD, ZYDIS_DECODER_MODE_CLDEMOTE};
    struct sb_random r = {0x5eed5eed1234567};
    uint8_t bytes[32];
    (void)state;
    for (enum soft_mode mode = SOFT_16; mode <= SOFT_64; mode++) {
        ZydisDecoder d;
        assert_true(ZYAN_SUCCESS(ZydisDecoderInit(&d, machine[mode], stack[mode])));
        for (unsigned i = 0; i < sizeof off / sizeof *off; i++)
            assert_true(ZYAN_SUCCESS(ZydisDecoderEnableMode(&d, off[i], ZYAN_FALSE)));
        for (unsigned i = 0; i < ROUNDS; i++) {
            struct pair p = {.mode = mode, .bytes = bytes};
            sb_fill(&r, mode, bytes);
            if (!one(&d, &p))
                complain(&p);
        }
    }
    printf("differences by rule:\n");
    for (unsigned i = 0; i < R_COUNT; i++)
        printf("  %7u  %s\n", rules[i].count, rules[i].name);
    unsigned n = 0;
    for (unsigned i = 0; i < soft_row_count; i++) {
        if (reached[i])
            n++;
        else
            printf("  not reached: %s %s\n", soft_rows[i].name, soft_rows[i].operands);
    }
    printf("rows reached: %u of %u\n", n, soft_row_count);
    assert_int_equal(complaints, 0);
    assert_int_equal(n, soft_row_count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_zydis)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
