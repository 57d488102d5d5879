// SPDX-License-Identifier: Apache-2.0
/* A host's key and certificate, and the small proofs made from secrets. */
#ifndef FERRY_MIGRATE_IDENTITY_H
#define FERRY_MIGRATE_IDENTITY_H

#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

/* Make a P-256 key and a self-signed certificate (CN = host, 30 years: pins, not dates, are what is trusted)
 * and write them as PEM to the descriptors. */
int fy_identity_make(const char *host, int key_fd, int cert_fd, struct fy_err *e);

/* SHA-256 of a DER certificate, checked to parse. */
int fy_certificate_digest(const uint8_t *der, size_t len, uint8_t out[32], struct fy_err *e);

/* HMAC-SHA-256 over the concatenation of a and b. */
void fy_hmac(const uint8_t *key, size_t key_len, const void *a, size_t a_len, const void *b, size_t b_len,
             uint8_t out[32]);

#endif
