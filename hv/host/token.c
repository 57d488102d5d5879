// SPDX-License-Identifier: Apache-2.0
#include "hv/host/token.h"

#include <ctype.h>
#include <string.h>

static const char prefix[] = "fy1_";
static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void fyd_token_format(const struct fyd_token *t, char out[FYD_TOKEN_TEXT])
{
    uint8_t raw[48 + FYD_TOKEN_ADDRESS];
    size_t n = strnlen(t->address, sizeof t->address - 1);
    memcpy(raw, t->digest, 32);
    memcpy(raw + 32, t->secret, 16);
    memcpy(raw + 48, t->address, n);
    n += 48;
    char *o = out;
    memcpy(o, prefix, sizeof prefix - 1);
    o += sizeof prefix - 1;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)raw[i] << 16 | (i + 1 < n ? (uint32_t)raw[i + 1] << 8 : 0) |
                     (i + 2 < n ? (uint32_t)raw[i + 2] : 0);
        *o++ = digits[v >> 18];
        *o++ = digits[v >> 12 & 63];
        if (i + 1 < n)
            *o++ = digits[v >> 6 & 63];
        if (i + 2 < n)
            *o++ = digits[v & 63];
    }
    *o = 0;
}

int fyd_token_parse(const char *text, struct fyd_token *t, struct fy_err *e)
{
    uint8_t raw[48 + FYD_TOKEN_ADDRESS];
    size_t n = 0;
    uint32_t acc = 0;
    unsigned bits = 0;
    if (strncmp(text, prefix, sizeof prefix - 1) != 0)
        return fy_fail(e, FY_EUSAGE, "this is no token (it begins with %s; `vmctl host invite` prints one)",
                       prefix);
    for (const char *p = text + sizeof prefix - 1; *p; p++) {
        const char *d = strchr(digits, *p);
        if (!d)
            return fy_fail(e, FY_EUSAGE,
                           "the token has a character that does not belong in it (copy it whole)");
        acc = acc << 6 | (uint32_t)(d - digits);
        bits += 6;
        if (bits < 8)
            continue;
        bits -= 8;
        if (n == sizeof raw - 1)
            return fy_fail(e, FY_EUSAGE, "the token is too long");
        raw[n++] = (uint8_t)(acc >> bits);
    }
    /* Only one text stands for one token. */
    if (n <= 48 || bits >= 6 || (acc & ((1u << bits) - 1)))
        return fy_fail(e, FY_EUSAGE, "the token is cut short (copy it whole)");
    memcpy(t->digest, raw, 32);
    memcpy(t->secret, raw + 32, 16);
    for (size_t i = 48; i < n; i++)
        if (!isgraph(raw[i]))
            return fy_fail(e, FY_EUSAGE, "the token holds no address (copy it whole)");
    memcpy(t->address, raw + 48, n - 48);
    t->address[n - 48] = 0;
    return 0;
}
