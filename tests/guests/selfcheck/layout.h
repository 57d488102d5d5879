// SPDX-License-Identifier: Apache-2.0
/* Where the self-checking guest keeps what, guest-physical, and the status page that the outside checker
 * reads. Plain data: shared with host programs. The image is at 1 MiB. */
#ifndef FERRY_SELFCHECK_LAYOUT_H
#define FERRY_SELFCHECK_LAYOUT_H

#include <stdint.h>

#define SC_PAGE 4096ull
#define SC_TABLES 0x800000ull /* page directories for RAM above 4 GiB, grows up to SC_STACKS */
#define SC_STACKS 0xe00000ull /* 16 KiB a vCPU: ring 3, ring 0 */
#define SC_STACK 0x2000ull
#define SC_STATUS 0xf00000ull
#define SC_AREA 0x1000000ull /* the working area begins here and skips the hole below 4 GiB */
#define SC_CPUS 64
#define SC_SEGMENTS 8

#define SC_MAGIC 0x3143535952524546ull /* "FERRYSC1" */

enum sc_fill { SC_TEXT, SC_RANDOM, SC_ZERO, SC_MIXED };
enum sc_mode { SC_IDLE, SC_SEQ, SC_SHUFFLE, SC_FLIP };

struct sc_segment {
    uint64_t gpa, pages;
};

/* Registers are the truth; `position` is what the outside sees of them, written after each page. */
struct sc_cpu {
    uint64_t position; /* pass << 32 | index: pages visited before `index` in this pass are at pass + 1 */
    uint64_t first;    /* this vCPU's pages: [first, first + pages) of the working area */
    uint64_t pages;
    uint64_t dirty;   /* the first `dirty` of them are rewritten, the others stay at counter 0 */
    uint64_t written; /* pages rewritten so far */
    uint64_t bad;     /* pages found wrong */
    uint64_t state;   /* 0 not there, 1 online, 2 filling, 3 at work */
    uint64_t reserved;
};

struct sc_status {
    uint64_t magic;
    uint32_t cpus, mode, fill, segments;
    uint64_t pages; /* of the working area */
    uint64_t tsc_khz;
    struct sc_segment segment[SC_SEGMENTS];
    uint64_t reserved[8];
    struct sc_cpu cpu[SC_CPUS];
};

#endif
