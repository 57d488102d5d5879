// SPDX-License-Identifier: Apache-2.0
/* One decoded instruction. The decoder fills everything but `fn`; binding chooses `fn`; a translator of hot
 * blocks can read the same records. docs/adr/0004-software-cpu.md says why it looks like this. */
#ifndef FERRY_SOFT_INSN_H
#define FERRY_SOFT_INSN_H

#include <stdbool.h>
#include <stdint.h>

struct soft_cpu;
struct soft_insn;

/* Execute one instruction; return the next one to execute, or NULL to leave the loop with cpu->rip set
 * (exec.h has the ways to end a handler). */
typedef const struct soft_insn *(*soft_fn)(struct soft_cpu *cpu, const struct soft_insn *in);

/* Slots of cpu->gpr beyond the sixteen registers, for `base` and `index`. */
#define SOFT_GPR_ZERO 16  /* always 0 */
#define SOFT_GPR_BLOCK 17 /* RIP of the first byte of the running block */
#define SOFT_GPR_FS 18    /* the bases of FS and GS: what the block builder puts there in 64-bit mode */
#define SOFT_GPR_GS 19
#define SOFT_GPRS 20

enum soft_mode { SOFT_16, SOFT_32, SOFT_64 }; /* code size: CS.D and CS.L */

/* Order of the SReg field; LDTR and TR follow. */
enum soft_sreg { SOFT_ES, SOFT_CS, SOFT_SS, SOFT_DS, SOFT_FS, SOFT_GS, SOFT_LDTR, SOFT_TR, SOFT_SREGS };

/* soft_insn.flags */
#define SOFT_I_MEM                                                                                           \
    0x01u /* the rm operand (or moffs) is memory: base, index, scale, disp, seg, ea, asize hold it */
#define SOFT_I_LOCK                                                                                          \
    0x02u                  /* LOCK, checked by the decoder: the row allows it and the destination is memory  \
                            */
#define SOFT_I_REP 0x04u   /* F3 where it is REP/REPE, not part of the opcode */
#define SOFT_I_REPNE 0x08u /* F2 likewise */
#define SOFT_I_REXW 0x10u  /* REX.W or VEX.W */
#define SOFT_I_VEX 0x20u   /* VEX-encoded */
#define SOFT_I_VL256 0x40u /* VEX.L */
#define SOFT_I_NF 0x80u    /* set by the block builder: nobody reads this instruction's arithmetic flags */

/* soft_insn.ea: bits that make the address need more than base + (index << scale) + disp */
#define SOFT_EA_SEG                                                                                          \
    0x01u /* add seg's base (FS, GS in 64-bit mode; any segment, with its checks, elsewhere) */
#define SOFT_EA_WRAP 0x02u   /* address size below 64: wrap to asize first */
#define SOFT_EA_LEGACY 0x04u /* not 64-bit mode: limit and type of the segment are checked */

struct soft_insn {
    soft_fn fn;
    int64_t disp; /* displacement, sign-extended; moffs whole (zero-extended); RIP-relative: already off + len
                   * + disp, base SOFT_GPR_BLOCK */
    uint64_t imm; /* immediate, sign- or zero-extended to 64 bits as the row says; near branches:
                   * displacement, sign-extended; far pointers: offset */
    uint16_t imm2; /* second immediate: ENTER's level, a far pointer's selector; is4's register; near
                    * branches: 1 where the block builder found the target in another page */
    uint16_t row;  /* index into soft_rows[] */
    uint16_t off;  /* of the first byte from the block's start (set by the block builder before binding) */
    uint8_t len;   /* 1..15 */
    uint8_t size;  /* operand size in bytes after prefixes and defaults: 1 (byte rows), 2, 4, 8; SIMD rows:
                    * size of the  integer operand where they have one (4, 8) */
    uint8_t asize; /* address size in bytes: 2, 4, 8 */
    uint8_t flags;
    uint8_t ea;
    uint8_t
        seg; /* enum soft_sreg: effective segment of the memory operand, of string sources, of moffs, XLAT */
    uint8_t base, index, scale; /* slots of gpr; scale: shift 0..3. No register: SOFT_GPR_ZERO */
    uint8_t reg; /* ModRM.reg with REX.R; the opcode's low three bits with REX.B for +r rows; ModRM.reg for
                  * sreg, CR, DR */
    uint8_t rm;  /* ModRM.rm with REX.B where it is a register */
    uint8_t reg_at,
        rm_at;    /* byte offset of those integer registers in cpu->gpr, for `size` (AH is 1, CH 9, ...) */
    uint8_t vvvv; /* VEX.vvvv, already inverted */
    uint8_t cc;   /* condition 0..15 of Jcc, SETcc, CMOVcc */
    uint8_t opcode, modrm; /* last opcode byte, ModRM byte (0 where none) */
};

/* CPU features as the decoder sees them: a row whose feature is not offered is #UD. Bits of a 64-bit set. */
enum soft_feature {
    SOFT_F_BASE,
    SOFT_F_LONG,
    SOFT_F_FPU,
    SOFT_F_MMX,
    SOFT_F_SSE,
    SOFT_F_SSE2,
    SOFT_F_SSE3,
    SOFT_F_SSSE3,
    SOFT_F_SSE41,
    SOFT_F_SSE42,
    SOFT_F_AES,
    SOFT_F_PCLMUL,
    SOFT_F_POPCNT,
    SOFT_F_MOVBE,
    SOFT_F_FSGSBASE,
    SOFT_F_RDRAND,
    SOFT_F_RDSEED,
    SOFT_F_XSAVE,
    SOFT_F_XSAVEOPT,
    SOFT_F_XSAVEC,
    SOFT_F_BMI1,
    SOFT_F_BMI2,
    SOFT_F_ADX,
    SOFT_F_AVX,
    SOFT_F_AVX2,
    SOFT_F_FMA,
    SOFT_F_F16C,
    SOFT_F_LZCNT,
    SOFT_F_CX8,
    SOFT_F_CX16,
    SOFT_F_CMOV,
    SOFT_F_LAHF64,
    SOFT_F_SYSCALL,
    SOFT_F_SEP,
    SOFT_F_RDTSCP,
    SOFT_F_CLFLUSH,
    SOFT_F_CLFLUSHOPT,
    SOFT_F_CLWB,
    SOFT_F_PREFETCHW,
    SOFT_F_SMAP,
    SOFT_F_INVPCID,
    SOFT_F_RDPID,
    SOFT_F_FXSR,
    SOFT_F_TSC,
    SOFT_F_MSR,
    SOFT_F_3DNOWPREFETCH,
    SOFT_F_COUNT
};

#endif
