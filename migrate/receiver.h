// SPDX-License-Identifier: Apache-2.0
/* The target's sink: one thread a data channel, from its socket into guest memory. Nothing of a round is
 * applied before every channel has reached the barrier that ends the round before. */
#ifndef FERRY_MIGRATE_RECEIVER_H
#define FERRY_MIGRATE_RECEIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "migrate/chan.h"

struct fy_sink_config {
    int mem_fd; /* guest memory, writable; the guest does not run */
    uint64_t pages;
    bool map;       /* write through a mapping: memory has 2 MiB pages, and hugetlb memfds refuse write(2) */
    unsigned count; /* data channels to come */
    struct fy_tls *tls; /* NULL: in clear */
    uint8_t ticket[FY_TICKET_LEN];
    uint8_t peer_digest[FY_CERT_DIGEST]; /* of the control channel's peer: data channels must show the same */
    int wake_fd;                         /* eventfd: written at each completed barrier and on failure */
};

struct fy_sink;
struct fy_sink *fy_sink_new(const struct fy_sink_config *config, struct fy_err *e);

/* Hand over an accepted data channel's socket (preface read). A bad number or a second use is refused, its
 * socket closed; the job goes on. Any thread. */
void fy_sink_add(struct fy_sink *s, unsigned channel, int sock);

/* Barriers that every channel has passed (0: none yet), or -1 with the first failure. Any thread. */
int fy_sink_poll(struct fy_sink *s, uint64_t *rounds, uint64_t *apply_ns, struct fy_err *e);

/* Records and digest of channel i, valid once its final barrier was passed. */
void fy_sink_summary(struct fy_sink *s, unsigned channel, uint64_t *records, uint64_t *digest);

uint64_t fy_sink_wire_pages(struct fy_sink *s); /* pages applied so far */

/* End all threads (aborting their channels) and free. */
void fy_sink_free(struct fy_sink *s);

/* The proof on a data channel's TICKET record: HMAC-SHA-256(ticket, "ferry channel" || channel u16). */
void fy_ticket_proof(const uint8_t ticket[FY_TICKET_LEN], unsigned channel, uint8_t out[32]);

#endif
