// SPDX-License-Identifier: Apache-2.0
/* The provider's AES-GCM against OpenSSL's own: the same bytes, the same tags, the same refusals. */
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "migrate/tls_gcm.h"

#define ROOM 40000

struct text {
    const char *name;
    const uint8_t *key, *iv, *aad;
    size_t aad_bytes;
};

/* Seal or open len bytes in one update, or in updates of at most `step`. Returns what EVP_CipherFinal_ex
 * does, -1 when something before it failed. */
static int run(const char *query, const struct text *t, bool seal, const uint8_t *in, uint8_t *out,
               size_t len, size_t step, uint8_t tag[16])
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, t->name, query);
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int n = 0;
    int rc = -1;
    assert_non_null(cipher);
    /* The order of calls in OpenSSL's record layer: the key first, an IV for each record. */
    if (EVP_CipherInit_ex(c, cipher, NULL, NULL, NULL, seal) != 1 ||
        EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_IVLEN, 12, NULL) != 1 ||
        EVP_CipherInit_ex(c, NULL, NULL, t->key, NULL, -1) != 1 ||
        EVP_CipherInit_ex(c, NULL, NULL, NULL, t->iv, seal) != 1 ||
        (!seal && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, 16, tag) != 1) ||
        (t->aad_bytes && EVP_CipherUpdate(c, NULL, &n, t->aad, (int)t->aad_bytes) != 1))
        goto out;
    for (size_t at = 0; at < len;) {
        size_t part = len - at < step ? len - at : step;
        if (EVP_CipherUpdate(c, out + at, &n, in + at, (int)part) != 1 || (size_t)n != part)
            goto out;
        at += part;
    }
    rc = EVP_CipherFinal_ex(c, out + len, &n);
    if (rc == 1 && seal && EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, 16, tag) != 1)
        rc = -1;
out:
    EVP_CIPHER_CTX_free(c);
    EVP_CIPHER_free(cipher);
    return rc;
}

static void fill(uint8_t *p, size_t len, uint64_t *seed)
{
    for (size_t i = 0; i < len; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        p[i] = (uint8_t)(*seed >> 56);
    }
}

static void same_as_openssl(void **state)
{
    (void)state;
    const char *query = fy_tls_gcm_query();
    if (!query) {
        print_message("skipped: this processor has no VAES with AVX-512, OpenSSL's AES-GCM is used\n");
        skip();
    }
    static uint8_t plain[ROOM];
    static uint8_t ours[ROOM + 16];
    static uint8_t theirs[ROOM + 16];
    static uint8_t back[ROOM + 16];
    static const char *names[] = {"AES-128-GCM", "AES-256-GCM"};
    uint64_t seed = 7;
    for (unsigned i = 0; i < 1200; i++) {
        uint8_t key[32];
        uint8_t iv[12];
        uint8_t aad[64];
        uint8_t tag[16];
        uint8_t tag2[16];
        size_t len = i < 600 ? i : (size_t)(seed >> 33) % ROOM;
        size_t step = i % 3 ? len + 1 : 1 + (size_t)(seed >> 40) % 700;
        fill(key, sizeof key, &seed);
        fill(iv, sizeof iv, &seed);
        fill(aad, sizeof aad, &seed);
        fill(plain, len, &seed);
        struct text t = {names[i & 1], key, iv, aad, i % 5 ? 5 : i % 65};
        assert_int_equal(run(query, &t, true, plain, ours, len, step, tag), 1);
        assert_int_equal(run("provider=default", &t, true, plain, theirs, len, ROOM, tag2), 1);
        assert_memory_equal(ours, theirs, len);
        assert_memory_equal(tag, tag2, 16);
        assert_int_equal(run(query, &t, false, theirs, back, len, step, tag2), 1);
        assert_memory_equal(back, plain, len);
        memcpy(back, theirs, len); /* in place, as the record layer works */
        assert_int_equal(run(query, &t, false, back, back, len, ROOM, tag2), 1);
        assert_memory_equal(back, plain, len);
        /* One bit anywhere: text, tag, additional data. */
        size_t bit = (size_t)(seed >> 20) % ((len + 16) * 8);
        uint8_t *where = bit / 8 < len ? theirs + bit / 8 : tag2 + (bit / 8 - len);
        *where ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(run(query, &t, false, theirs, back, len, step, tag2), 1);
        *where ^= (uint8_t)(1u << bit % 8);
        aad[0] ^= 1;
        if (t.aad_bytes)
            assert_int_not_equal(run(query, &t, false, theirs, back, len, step, tag2), 1);
    }
}

/* What would weaken it is refused: a second text with one IV, no tag, another length of IV. */
static void misuse_is_refused(void **state)
{
    (void)state;
    const char *query = fy_tls_gcm_query();
    if (!query) {
        print_message("skipped: this processor has no VAES with AVX-512, OpenSSL's AES-GCM is used\n");
        skip();
    }
    uint8_t key[16] = {1};
    uint8_t iv[12] = {2};
    uint8_t in[32] = {3};
    uint8_t out[48];
    int n;
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-128-GCM", query);
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    assert_int_equal(EVP_CIPHER_get_mode(cipher), EVP_CIPH_GCM_MODE);
    assert_int_equal(EVP_EncryptInit_ex(c, cipher, NULL, key, NULL), 1);
    assert_int_not_equal(EVP_EncryptUpdate(c, out, &n, in, 32), 1); /* no IV */
    assert_int_not_equal(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_IVLEN, 16, NULL), 1);
    assert_int_equal(EVP_EncryptInit_ex(c, NULL, NULL, NULL, iv), 1);
    assert_int_equal(EVP_EncryptUpdate(c, out, &n, in, 32), 1);
    assert_int_equal(EVP_EncryptFinal_ex(c, out, &n), 1);
    assert_int_not_equal(EVP_EncryptUpdate(c, out, &n, in, 32), 1); /* the same IV again */
    assert_int_equal(EVP_DecryptInit_ex(c, NULL, NULL, NULL, iv), 1);
    assert_int_equal(EVP_DecryptUpdate(c, out, &n, out, 32), 1);
    assert_int_not_equal(EVP_DecryptFinal_ex(c, out, &n), 1); /* no tag to meet */
    EVP_CIPHER_CTX_free(c);
    EVP_CIPHER_free(cipher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_as_openssl),
        cmocka_unit_test(misuse_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
