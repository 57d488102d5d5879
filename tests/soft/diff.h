// SPDX-License-Identifier: Apache-2.0
/* The differential test of the software CPU: streams of instructions made from the opcode table run on the
 * host's own CPU, in a child process, and in the engine, from the same state; then everything is compared. */
#ifndef FERRY_TESTS_SOFT_DIFF_H
#define FERRY_TESTS_SOFT_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/cpu/soft/optable.h"

/* Linear addresses, the same in the child and in the guest. */
#define DIFF_CODE 0x10000000ull /* streams; read and execute */
#define DIFF_CODE_BYTES 0x80000ull
#define DIFF_EXIT 0x3f5a7000ull /* where a stream jumps to when it is through */
#define DIFF_DATA 0x20000000ull /* all that a stream may write; nothing is mapped around it */
#define DIFF_DATA_BYTES 0x2000ull
#define DIFF_GS 0x1000ull /* GS's base */

#define DIFF_XSAVE 832 /* x87, SSE, AVX in the standard format */
#define DIFF_NO_VECTOR 0xffu
#define DIFF_ENDLESS 0xfeu

/* Offsets are known to native_stub.S. */
struct diff_state {
    uint64_t gpr[16];
    uint64_t rflags;    /* 128 */
    uint64_t rip;       /* 136 */
    uint64_t host_rsp;  /* 144: the child's own */
    uint64_t use_xsave; /* 152 */
    uint64_t cr2;
    uint32_t vector, error; /* of the exception that ended the stream, or DIFF_NO_VECTOR */
    uint64_t insns;         /* executed (engine only) */
    uint64_t target;        /* 184: where the child's stub keeps its way in */
    uint8_t xsave[DIFF_XSAVE] __attribute__((aligned(64))); /* 192 */
};

/* Streams are of 32-bit (compatibility mode) or 64-bit code. */
extern bool diff_32;

/* One exchange with the child. */
struct diff_slot {
    uint64_t end; /* where the stream's way out is */
    struct diff_state in, out;
    uint8_t mem_in[DIFF_DATA_BYTES], mem_out[DIFF_DATA_BYTES];
};
#define DIFF_SLOTS 128u

/* -- random numbers -- */

struct diff_rng {
    uint64_t s;
};
static inline uint64_t diff_rnd(struct diff_rng *r)
{
    uint64_t z = r->s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static inline unsigned diff_below(struct diff_rng *r, unsigned n)
{
    return (unsigned)((diff_rnd(r) >> 32) * n >> 32);
}
static inline bool diff_chance(struct diff_rng *r, unsigned percent)
{
    return diff_below(r, 100) < percent;
}
/* A number that finds mistakes. */
uint64_t diff_special(struct diff_rng *r);

/* -- streams (gen.c, encode.c) -- */

enum diff_fix { FIX_NONE, FIX_RIP, FIX_REL8, FIX_REL32, FIX_CODE64, FIX_CODE32 };

struct diff_insn {
    uint8_t b[15], len;
    uint8_t fix, fix_at; /* enum diff_fix; of the field in b */
    uint16_t row;
    uint16_t undefined; /* arithmetic flags that are undefined before this instruction */
    bool branch;
    uint64_t target; /* FIX_RIP: address; others: index of an instruction */
};
#define DIFF_INSNS 96u
struct diff_stream {
    unsigned n;
    uint16_t undefined; /* at the end */
    bool no16;          /* the next instruction is not to have 16-bit operands */
    struct diff_insn insn[DIFF_INSNS];
    uint64_t start[DIFF_INSNS + 1]; /* address of each, and of the jump at the end; by diff_layout */
};

/* What may be generated: rows[] is filled by diff_rows_init. */
struct diff_row {
    const char *skip; /* why not, or NULL */
    uint64_t reached;
};
enum diff_class { DIFF_INT = 1, DIFF_SIMD = 2, DIFF_X87 = 4 };
extern struct diff_row diff_rows[];
extern uint64_t diff_features; /* of the host, as enum soft_feature bits */
/* only: a row's name, or NULL. Returns how many rows are left to generate. */
unsigned diff_rows_init(unsigned classes, const char *only);

/* A stream of about `count` table rows, its registers and memory. */
void diff_generate(struct diff_rng *r, unsigned count, struct diff_stream *s, struct diff_slot *slot);
/* One instruction of a row at the end of the stream, with what it needs before it; false: no encoding found.
 */
bool diff_emit_row(struct diff_rng *r, struct diff_stream *s, unsigned row);
/* Append raw bytes. */
struct diff_insn *diff_emit(struct diff_stream *s, const uint8_t *bytes, unsigned n);
struct diff_insn *diff_emit_mov32(struct diff_stream *s, unsigned reg, uint32_t v);
void diff_fill_state(struct diff_rng *r, struct diff_slot *slot);
/* Write the stream's first `n` instructions, and the way out, at address `at`; returns the bytes. */
unsigned diff_layout(struct diff_stream *s, unsigned n, uint64_t at, uint8_t *to);

/* -- both sides -- */

/* native.c. The child; its exchange area and code are shared with this process. false: not on this host. */
struct diff_native {
    struct diff_slot *slots;
    uint8_t *code;
    int to, from, pid;
};
bool diff_native_start(struct diff_native *n);
/* Run slots 0..count-1. false: the child died or hangs (at slot *at). */
bool diff_native_run(struct diff_native *n, unsigned count);
void diff_native_stop(struct diff_native *n);

/* engine.c */
struct diff_engine;
struct diff_engine *diff_engine_new(void);
void diff_engine_free(struct diff_engine *e);
/* New code: `bytes` at DIFF_CODE. */
void diff_engine_code(struct diff_engine *e, const uint8_t *code, unsigned bytes);
/* From slot's `in` and mem_in; fills out and mem. */
void diff_engine_run(struct diff_engine *e, const struct diff_slot *slot, struct diff_state *out,
                     uint8_t mem[DIFF_DATA_BYTES]);

/* compare.c. The differences as text, "" if there are none. `undefined`: flags not looked at. */
struct diff_options {
    bool strict_flags, x87_pointers;
};
extern struct diff_options diff_options;
bool diff_compare(const struct diff_state *want, const uint8_t *want_mem, const struct diff_state *got,
                  const uint8_t *got_mem, unsigned undefined, char *text, size_t bytes);
void diff_print_state(const char *title, const struct diff_state *s);
void diff_print_tolerances(void);

#endif
