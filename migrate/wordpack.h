// SPDX-License-Identifier: Apache-2.0
/* An encoder of the LZ4 block format for memory that is laid out in words; any LZ4 decoder unpacks it. */
#ifndef FERRY_MIGRATE_WORDPACK_H
#define FERRY_MIGRATE_WORDPACK_H

#include <stddef.h>
#include <stdint.h>

#define FY_WORDPACK_WORD_BITS 11
#define FY_WORDPACK_BYTE_BITS 12
#define FY_WORDPACK_MAX (16u << 20) /* longest source */

/* Where things were seen last, by hash: 24 KiB that stay in a core's first-level cache. Scratch of one call.
 */
struct fy_wordpack {
    uint32_t word[1u << FY_WORDPACK_WORD_BITS];
    uint32_t byte[1u << FY_WORDPACK_BYTE_BITS];
};

/* Pack len bytes (at most FY_WORDPACK_MAX) from src as one LZ4 block into dst of `room` bytes. Returns the
 * packed length, or 0 when that does not fit into room (with up to 32 bytes to spare) or when src does not
 * repeat itself by whole words: then a general encoder does better. src must not change meanwhile; any
 * thread. */
size_t fy_wordpack(struct fy_wordpack *w, const uint8_t *src, size_t len, uint8_t *dst, size_t room);

#endif
