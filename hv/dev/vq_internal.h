// SPDX-License-Identifier: Apache-2.0
/* Private to the virtqueue: what the two ring formats give virtqueue.c. */
#ifndef FERRY_DEV_VQ_INTERNAL_H
#define FERRY_DEV_VQ_INTERNAL_H

#include "hv/dev/virtqueue.h"

/* A descriptor as it lies in memory. Split: flags, next. Packed: id, flags. */
struct fy_vq_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t a, b;
};

#define FY_DESC_NEXT 1u
#define FY_DESC_WRITE 2u
#define FY_DESC_INDIRECT 4u
#define FY_DESC_AVAIL 0x80u  /* packed */
#define FY_DESC_USED 0x8000u /* packed */

struct fy_vq_desc fy_vq_read_desc(const uint8_t *p);
int fy_vq_break(struct fy_vq *q);
/* false: the chain breaks a rule. */
bool fy_vq_add_seg(struct fy_vq *q, struct fy_vq_chain *c, uint64_t gpa, uint32_t len, bool in);

int fy_split_pop(struct fy_vq *q, struct fy_vq_chain *c);
void fy_split_put(struct fy_vq *q, const struct fy_vq_chain *c, uint32_t written);
bool fy_split_wants_interrupt(struct fy_vq *q);
void fy_split_set_kicks(struct fy_vq *q, bool on);
bool fy_split_has_more(struct fy_vq *q);

int fy_packed_pop(struct fy_vq *q, struct fy_vq_chain *c);
void fy_packed_put(struct fy_vq *q, const struct fy_vq_chain *c, uint32_t written);
bool fy_packed_wants_interrupt(struct fy_vq *q);
void fy_packed_set_kicks(struct fy_vq *q, bool on);
bool fy_packed_has_more(struct fy_vq *q);

#endif
