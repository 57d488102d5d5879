// SPDX-License-Identifier: Apache-2.0
#include "hv/host/digest.h"

#include <limits.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

int fyd_sha256(const void *buf, size_t len, uint8_t out[32], struct fy_err *e)
{
    unsigned n = 0;
    if (EVP_Digest(buf, len, out, &n, EVP_sha256(), NULL) != 1 || n != 32)
        return fy_fail(e, FY_EFAIL, "SHA-256 failed");
    return 0;
}

int fyd_certificate_digest(const char *pem, size_t len, uint8_t out[32], struct fy_err *e)
{
    static const char begin[] = "-----BEGIN CERTIFICATE-----";
    static const char end[] = "-----END CERTIFICATE-----";
    const char *b = memmem(pem, len, begin, sizeof begin - 1);
    const char *stop = b ? memmem(b, len - (size_t)(b - pem), end, sizeof end - 1) : NULL;
    if (!stop || stop - b > 65536)
        return fy_fail(e, FY_ECORRUPT, "no certificate in PEM form");
    b += sizeof begin - 1;
    uint8_t *der = malloc((size_t)(stop - b) + 64);
    EVP_ENCODE_CTX *ctx = EVP_ENCODE_CTX_new();
    int have = 0, more = 0, rc = -1;
    if (der && ctx) {
        EVP_DecodeInit(ctx);
        if (EVP_DecodeUpdate(ctx, der, &have, (const unsigned char *)b, (int)(stop - b)) >= 0 &&
            EVP_DecodeFinal(ctx, der + have, &more) >= 0 && have + more > 0)
            rc = fyd_sha256(der, (size_t)have + (size_t)more, out, e);
        else
            fy_fail(e, FY_ECORRUPT, "the certificate's base64 cannot be read");
    } else {
        fy_fail(e, FY_ERESOURCE, "no memory for a certificate");
    }
    EVP_ENCODE_CTX_free(ctx);
    free(der);
    return rc;
}
