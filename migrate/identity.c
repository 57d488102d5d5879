// SPDX-License-Identifier: Apache-2.0
#include "migrate/identity.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>

#include "hv/base/io.h"
#include "migrate/receiver.h"

#define LIFETIME_S (30l * 365 * 24 * 3600)

static X509 *self_signed(EVP_PKEY *key, const char *host)
{
    X509 *cert = X509_new();
    uint64_t serial;
    fy_random(&serial, sizeof serial);
    if (!cert)
        return NULL;
    X509_NAME *name = X509_get_subject_name(cert);
    if (X509_set_version(cert, 2) != 1 ||
        ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial >> 1) != 1 ||
        !X509_gmtime_adj(X509_getm_notBefore(cert), -3600) ||
        !X509_gmtime_adj(X509_getm_notAfter(cert), LIFETIME_S) || X509_set_pubkey(cert, key) != 1 ||
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)host, -1, -1, 0) != 1 ||
        X509_set_issuer_name(cert, name) != 1 || X509_sign(cert, key, EVP_sha256()) == 0) {
        X509_free(cert);
        return NULL;
    }
    return cert;
}

static int write_bio(BIO *b, int fd)
{
    char *data;
    long len = BIO_get_mem_data(b, &data);
    return len > 0 ? fy_write_all(fd, data, (size_t)len) : -1;
}

int fy_identity_make(const char *host, int key_fd, int cert_fd, struct fy_err *e)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = key ? self_signed(key, host) : NULL;
    BIO *kb = BIO_new(BIO_s_mem());
    BIO *cb = BIO_new(BIO_s_mem());
    int rc = -1;
    if (!cert || !kb || !cb || PEM_write_bio_PKCS8PrivateKey(kb, key, NULL, NULL, 0, NULL, NULL) != 1 ||
        PEM_write_bio_X509(cb, cert) != 1)
        fy_fail(e, FY_EFAIL, "cannot make a key and certificate for \"%s\" (a name has 1 to 64 characters)",
                host);
    else if (write_bio(kb, key_fd) < 0 || write_bio(cb, cert_fd) < 0)
        fy_fail(e, FY_ERESOURCE, "cannot write the key and certificate (disk full?)");
    else
        rc = 0;
    BIO_free(kb);
    BIO_free(cb);
    X509_free(cert);
    EVP_PKEY_free(key);
    return rc;
}

int fy_certificate_digest(const uint8_t *der, size_t len, uint8_t out[32], struct fy_err *e)
{
    const uint8_t *p = der;
    X509 *cert = len <= 16384 ? d2i_X509(NULL, &p, (long)len) : NULL;
    unsigned n = 32;
    int rc = -1;
    if (!cert || p != der + len || X509_digest(cert, EVP_sha256(), out, &n) != 1)
        fy_fail(e, FY_ECORRUPT, "the certificate does not parse");
    else
        rc = 0;
    X509_free(cert);
    return rc;
}

void fy_hmac(const uint8_t *key, size_t key_len, const void *a, size_t a_len, const void *b, size_t b_len,
             uint8_t out[32])
{
    uint8_t buf[256];
    if (a_len + b_len > sizeof buf)
        a_len = b_len = 0; /* callers pass a few dozen bytes; nothing longer may pass for them */
    memcpy(buf, a, a_len);
    if (b_len)
        memcpy(buf + a_len, b, b_len);
    unsigned n = 32;
    HMAC(EVP_sha256(), key, (int)key_len, buf, a_len + b_len, out, &n);
}

void fy_ticket_proof(const uint8_t ticket[FY_TICKET_LEN], unsigned channel, uint8_t out[32])
{
    static const char label[] = "ferry channel";
    uint8_t number[2];
    fy_put16(number, (uint16_t)channel);
    fy_hmac(ticket, FY_TICKET_LEN, label, sizeof label - 1, number, sizeof number, out);
}
