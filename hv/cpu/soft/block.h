// SPDX-License-Identifier: Apache-2.0
/* Blocks of decoded instructions, one cache a vCPU. All on the vCPU's thread. */
#ifndef FERRY_SOFT_BLOCK_H
#define FERRY_SOFT_BLOCK_H

#include "hv/cpu/soft/cpu.h"

#define SOFT_BLOCK_INSNS 64u
#define SOFT_JUMPS 16384u

/* soft_block.flags */
#define SOFT_B_DEAD 0x1u     /* poisoned: its bytes were written */
#define SOFT_B_STRADDLE 0x2u /* one instruction across two pages */
#define SOFT_B_SINGLE 0x4u   /* the scratch block: one instruction, decoded afresh each time */
#define SOFT_B_COUNTED 0x8u  /* may have an instruction that looks at the count (icount) */

/* Linear address -> block, as long as `key` is the vCPU's: until the TLB is flushed or the mode changes. */
struct soft_jump {
    uint64_t lin;
    struct soft_block *block;
    uint64_t key; /* no vCPU's key is 0, nor comes back */
};

struct soft_block {
    struct soft_block *next[2]; /* chained by soft_branch's slots; soft_unlinked where not */
    uint64_t cost;              /* count; more than any limit once dead, so that nobody enters */
    uint16_t count, bytes;
    uint8_t flags, key;
    /* Where its last branch has led lately, and where its call has come back to; 64-bit mode. What the vCPU's
     * jump cache has too, without its own line of the processor's cache. */
    struct soft_jump to, back;
    uint64_t phys, page2; /* offset in the memfd; the second page's number of a straddling block */
    struct soft_block *hash_next, *page_next[2];
    struct soft_insn code[]; /* count instructions, then an end record */
};

/* Stands for "not chained": costs more than any limit. */
extern struct soft_block soft_unlinked;

static inline struct soft_jump *soft_jump_at(const struct soft_cpu *c, uint64_t lin)
{
    return &c->jumps[(lin ^ lin >> 12) & (SOFT_JUMPS - 1)];
}

/* No call is known, with an address that none returns to. */
static inline void soft_calls_forget(struct soft_cpu *c)
{
    for (unsigned i = 0; i < SOFT_CALLS; i++)
        c->calls[i] = (struct soft_call){1ull << 63, NULL};
}

struct soft_cache *soft_cache_new(void);
void soft_cache_free(struct soft_cache *cache);
/* The guest idles: when much is kept, throw all of it away and give the memory back. No block runs. */
void soft_cache_trim(struct soft_cpu *c);
uint64_t soft_cache_generation(const struct soft_cache *cache);

/* The block at rip, made if need be. NULL: an exception is recorded (the fetch faults), or, with none, the
 * instruction has to run alone (soft_single). May throw away all blocks: the generation tells. */
struct soft_block *soft_find(struct soft_cpu *c, uint64_t rip);
/* A block of the one instruction at rip, good until the next call. NULL: exception recorded. */
struct soft_block *soft_single(struct soft_cpu *c, uint64_t rip);

/* Poison the blocks of a page of the memfd; of all pages. soft_code_take: of those in the vCPU's queue. */
void soft_code_drop(struct soft_cpu *c, uint64_t page);
void soft_code_drop_all(struct soft_cpu *c);
void soft_code_take(struct soft_cpu *c);
/* Let the running block end after the instruction that runs. */
void soft_code_leave(struct soft_cpu *c);

/* build.c. Decode what follows rip into `code` (room for SOFT_BLOCK_INSNS + 1) and bind it; fills count and
 * bytes. */
void soft_finish(struct soft_cpu *c, struct soft_block *b);

const struct soft_insn *soft_x_block_end(struct soft_cpu *c, const struct soft_insn *in);
const struct soft_insn *soft_x_poisoned(struct soft_cpu *c, const struct soft_insn *in);

#endif
