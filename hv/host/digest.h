// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_HOST_DIGEST_H
#define FERRY_HOST_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

/* SHA-256 of a buffer. */
int fyd_sha256(const void *buf, size_t len, uint8_t out[32], struct fy_err *e);

/* SHA-256 of the DER form of the first certificate in PEM text (RFC 7468): what hosts pin. FY_ECORRUPT when
 * there is none that can be read. */
int fyd_certificate_digest(const char *pem, size_t len, uint8_t out[32], struct fy_err *e);

#endif
