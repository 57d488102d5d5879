// SPDX-License-Identifier: Apache-2.0
/* Transport: one connected TCP socket, with or without TLS 1.3. A channel is used by one thread at a time;
 * only fy_chan_abort may be called from another. All calls block, bounded by the socket's timeouts. */
#ifndef FERRY_MIGRATE_CHAN_H
#define FERRY_MIGRATE_CHAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "proto/wire.h"

#define FY_CERT_DIGEST 32 /* SHA-256 of a certificate's DER form */

struct fy_chan;
struct fy_tls; /* keys and the peers that are accepted, shared by a job's channels */

/* Who may be on the other side. */
struct fy_pin {
    char host[128];
    uint8_t digest[FY_CERT_DIGEST];
};

/* Read the PEM key and certificate from descriptors (offset 0; they stay the caller's) for the client's or
 * server's side. pins are copied. anyone: accept any certificate (pairing only; the caller must then demand
 * another proof). */
struct fy_tls *fy_tls_new(int key_fd, int cert_fd, bool server, const struct fy_pin *pins, size_t pin_count,
                          bool anyone, struct fy_err *e);
void fy_tls_free(struct fy_tls *tls);

/* Connect to "host:port" (IPv6 in brackets) within timeout_ms; returns the socket or -1 (FY_EUNREACHABLE). */
int fy_tcp_connect(const char *address, unsigned timeout_ms, struct fy_err *e);

/* Send the 32-byte clear preface (proto/wire.h) on a fresh socket. */
int fy_preface_send(int sock, enum fy_preface_kind kind, unsigned channel,
                    const uint8_t job_id[FY_JOB_ID_LEN], struct fy_err *e);

/* Make a channel of a connected socket, which it owns, also on failure. tls NULL: in clear. The TLS handshake
 * is done here; a peer that is not pinned fails with FY_EAUTH. */
struct fy_chan *fy_chan_new(int sock, struct fy_tls *tls, struct fy_err *e);
void fy_chan_free(struct fy_chan *c);

/* Write all of buf, buffered until fy_chan_flush or until the buffer is full. */
int fy_chan_write(struct fy_chan *c, const void *buf, size_t len, struct fy_err *e);
int fy_chan_flush(struct fy_chan *c, struct fy_err *e);

/* Read exactly len bytes. FY_EUNREACHABLE when the peer ends or stays silent for longer than the socket's
 * timeout. */
int fy_chan_read(struct fy_chan *c, void *buf, size_t len, struct fy_err *e);

/* Wait until the channel has bytes to read (returns 1), or event_fd (or -1) is readable (returns 2; both: 1),
 * or timeout_ms passed (returns 0; negative: no bound). */
int fy_chan_wait(struct fy_chan *c, int event_fd, int timeout_ms, struct fy_err *e);

/* Make every present and later call on the channel fail. Any thread. */
void fy_chan_abort(struct fy_chan *c);

/* How long one read or write may make no progress. */
void fy_chan_set_timeout(struct fy_chan *c, unsigned ms);

/* The kernel's smoothed round trip of the connection in ns; 0: not known. A relay in between hides its part.
 */
uint64_t fy_chan_path_ns(const struct fy_chan *c);
uint64_t fy_chan_wire_bytes(const struct fy_chan *c); /* written to the socket so far */
const char *fy_chan_peer(const struct fy_chan *c);    /* pinned host name; "" without TLS or with `anyone` */
bool fy_chan_is_tls(const struct fy_chan *c);
/* SHA-256 of the peer's certificate (TLS only), and its DER form into buf; returns the DER's length or -1. */
int fy_chan_peer_digest(const struct fy_chan *c, uint8_t digest[FY_CERT_DIGEST]);
long fy_chan_peer_cert(const struct fy_chan *c, uint8_t *buf, size_t room);
/* RFC 8446 section 7.5 exporter of 32 bytes with the given label. */
int fy_chan_exporter(const struct fy_chan *c, const char *label, uint8_t out[32], struct fy_err *e);

#endif
