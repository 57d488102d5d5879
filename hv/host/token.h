// SPDX-License-Identifier: Apache-2.0
/* The text of an invitation: "fy1_" and base64url (RFC 4648 section 5, no padding) of digest[32] secret[16]
 * address. */
#ifndef FERRY_HOST_TOKEN_H
#define FERRY_HOST_TOKEN_H

#include <stdint.h>

#include "hv/base/err.h"

#define FYD_TOKEN_ADDRESS 256
#define FYD_TOKEN_TEXT 512

struct fyd_token {
    uint8_t digest[32]; /* SHA-256 of the inviter's certificate */
    uint8_t secret[16];
    char address[FYD_TOKEN_ADDRESS]; /* "host:port" */
};

void fyd_token_format(const struct fyd_token *t, char out[FYD_TOKEN_TEXT]);

/* FY_EUSAGE when the text is no token; *t is then undefined. */
int fyd_token_parse(const char *text, struct fyd_token *t, struct fy_err *e);

#endif
