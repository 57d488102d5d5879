// SPDX-License-Identifier: Apache-2.0
/* An OpenSSL provider with two algorithms. Interface: provider-cipher(7), provider(7); IV and tag as RFC 8446
 * section 5.3 uses them: 12 and 16 bytes, the additional data before the text, a fresh IV for each record. */
#include "migrate/tls_gcm.h"

#include <intel-ipsec-mb.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"

#define IV_BYTES 12
#define TAG_BYTES 16
/* A TLS record's is 5 bytes. */
#define AAD_MAX 64
#define CACHE_LINE 64

enum gcm_state {
    GCM_NO_IV,
    GCM_IV,   /* set; additional data may come */
    GCM_TEXT, /* text has begun */
};

struct gcm {
    struct gcm_key_data key; /* aligned as the library's vector loads want it */
    struct gcm_context_data run;
    size_t key_bytes;
    bool keyed, sealing, has_tag;
    enum gcm_state state;
    size_t aad_bytes;
    uint8_t aad[AAD_MAX];
    uint8_t iv[IV_BYTES];
    uint8_t tag[TAG_BYTES]; /* made by sealing, or to be met by opening */
};

/* Written once before the provider is offered; the functions in it keep no state between calls. */
static IMB_MGR *library;

/* --- a context ---------------------------------------------------------------------------------------------
 */

static void *gcm_new(size_t key_bytes)
{
    struct gcm *g = aligned_alloc(CACHE_LINE, (sizeof *g + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    if (!g)
        return NULL;
    memset(g, 0, sizeof *g);
    g->key_bytes = key_bytes;
    return g;
}

static void *new_128(void *provider)
{
    (void)provider;
    return gcm_new(16);
}

static void *new_256(void *provider)
{
    (void)provider;
    return gcm_new(32);
}

static void gcm_free(void *ctx)
{
    if (ctx)
        OPENSSL_cleanse(ctx, sizeof(struct gcm));
    free(ctx);
}

static void *gcm_dup(void *ctx)
{
    struct gcm *g = gcm_new(0);
    if (g)
        *g = *(struct gcm *)ctx;
    return g;
}

static int begin(struct gcm *g, bool sealing, const unsigned char *key, size_t key_bytes,
                 const unsigned char *iv, size_t iv_bytes)
{
    g->sealing = sealing;
    if (key) {
        if (key_bytes != g->key_bytes)
            return 0;
        if (key_bytes == 16)
            IMB_AES128_GCM_PRE(library, key, &g->key);
        else
            IMB_AES256_GCM_PRE(library, key, &g->key);
        g->keyed = true;
        g->state = GCM_NO_IV;
    }
    if (iv) {
        if (iv_bytes != IV_BYTES)
            return 0;
        memcpy(g->iv, iv, IV_BYTES);
        g->state = GCM_IV;
        g->aad_bytes = 0;
        g->has_tag = false;
    }
    return 1;
}

static int gcm_set_params(void *ctx, const OSSL_PARAM params[]);

static int seal_begin(void *ctx, const unsigned char *key, size_t key_bytes, const unsigned char *iv,
                      size_t iv_bytes, const OSSL_PARAM params[])
{
    return begin(ctx, true, key, key_bytes, iv, iv_bytes) && gcm_set_params(ctx, params);
}

static int open_begin(void *ctx, const unsigned char *key, size_t key_bytes, const unsigned char *iv,
                      size_t iv_bytes, const OSSL_PARAM params[])
{
    return begin(ctx, false, key, key_bytes, iv, iv_bytes) && gcm_set_params(ctx, params);
}

/* --- text --------------------------------------------------------------------------------------------------
 */

static bool start_text(struct gcm *g)
{
    if (g->state == GCM_TEXT)
        return true;
    if (!g->keyed || g->state != GCM_IV)
        return false;
    if (g->key_bytes == 16)
        IMB_AES128_GCM_INIT(library, &g->key, &g->run, g->iv, g->aad, g->aad_bytes);
    else
        IMB_AES256_GCM_INIT(library, &g->key, &g->run, g->iv, g->aad, g->aad_bytes);
    g->state = GCM_TEXT;
    return true;
}

static void text(struct gcm *g, unsigned char *out, const unsigned char *in, size_t len)
{
    if (g->key_bytes == 16 && g->sealing)
        IMB_AES128_GCM_ENC_UPDATE(library, &g->key, &g->run, out, in, len);
    else if (g->key_bytes == 16)
        IMB_AES128_GCM_DEC_UPDATE(library, &g->key, &g->run, out, in, len);
    else if (g->sealing)
        IMB_AES256_GCM_ENC_UPDATE(library, &g->key, &g->run, out, in, len);
    else
        IMB_AES256_GCM_DEC_UPDATE(library, &g->key, &g->run, out, in, len);
}

static int gcm_update(void *ctx, unsigned char *out, size_t *out_len, size_t room, const unsigned char *in,
                      size_t len)
{
    struct gcm *g = ctx;
    *out_len = 0;
    if (!len)
        return 1;
    if (!out) {
        if (g->state != GCM_IV || len > AAD_MAX - g->aad_bytes)
            return 0;
        memcpy(g->aad + g->aad_bytes, in, len);
        g->aad_bytes += len;
        *out_len = len;
        return 1;
    }
    if (len > room || !start_text(g))
        return 0;
    text(g, out, in, len);
    *out_len = len;
    return 1;
}

static int gcm_final(void *ctx, unsigned char *out, size_t *out_len, size_t room)
{
    struct gcm *g = ctx;
    uint8_t tag[TAG_BYTES];
    (void)out;
    (void)room;
    *out_len = 0;
    if (!start_text(g))
        return 0;
    if (g->key_bytes == 16 && g->sealing)
        IMB_AES128_GCM_ENC_FINALIZE(library, &g->key, &g->run, tag, TAG_BYTES);
    else if (g->key_bytes == 16)
        IMB_AES128_GCM_DEC_FINALIZE(library, &g->key, &g->run, tag, TAG_BYTES);
    else if (g->sealing)
        IMB_AES256_GCM_ENC_FINALIZE(library, &g->key, &g->run, tag, TAG_BYTES);
    else
        IMB_AES256_GCM_DEC_FINALIZE(library, &g->key, &g->run, tag, TAG_BYTES);
    g->state = GCM_NO_IV; /* an IV serves one text */
    if (!g->sealing)
        return g->has_tag && CRYPTO_memcmp(tag, g->tag, TAG_BYTES) == 0;
    memcpy(g->tag, tag, TAG_BYTES);
    g->has_tag = true;
    return 1;
}

static int gcm_cipher(void *ctx, unsigned char *out, size_t *out_len, size_t room, const unsigned char *in,
                      size_t len)
{
    return gcm_update(ctx, out, out_len, room, in, len);
}

/* --- parameters --------------------------------------------------------------------------------------------
 */

static int set_size(OSSL_PARAM params[], const char *name, size_t value)
{
    OSSL_PARAM *p = OSSL_PARAM_locate(params, name);
    return !p || OSSL_PARAM_set_size_t(p, value);
}

static int describe(OSSL_PARAM params[], size_t key_bytes)
{
    OSSL_PARAM *mode = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_MODE);
    OSSL_PARAM *aead = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_AEAD);
    OSSL_PARAM *own_iv = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_CUSTOM_IV);
    return (!mode || OSSL_PARAM_set_uint(mode, EVP_CIPH_GCM_MODE)) &&
           (!aead || OSSL_PARAM_set_int(aead, 1)) && (!own_iv || OSSL_PARAM_set_int(own_iv, 1)) &&
           set_size(params, OSSL_CIPHER_PARAM_KEYLEN, key_bytes) &&
           set_size(params, OSSL_CIPHER_PARAM_BLOCK_SIZE, 1) &&
           set_size(params, OSSL_CIPHER_PARAM_IVLEN, IV_BYTES);
}

static int describe_128(OSSL_PARAM params[])
{
    return describe(params, 16);
}

static int describe_256(OSSL_PARAM params[])
{
    return describe(params, 32);
}

static int gcm_get_params(void *ctx, OSSL_PARAM params[])
{
    struct gcm *g = ctx;
    OSSL_PARAM *tag = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_AEAD_TAG);
    if (tag && (!g->sealing || !g->has_tag || tag->data_size > TAG_BYTES ||
                !OSSL_PARAM_set_octet_string(tag, g->tag, tag->data_size)))
        return 0;
    return set_size(params, OSSL_CIPHER_PARAM_KEYLEN, g->key_bytes) &&
           set_size(params, OSSL_CIPHER_PARAM_IVLEN, IV_BYTES) &&
           set_size(params, OSSL_CIPHER_PARAM_AEAD_TAGLEN, TAG_BYTES);
}

static int gcm_set_params(void *ctx, const OSSL_PARAM params[])
{
    struct gcm *g = ctx;
    if (!params)
        return 1;
    const OSSL_PARAM *tag = OSSL_PARAM_locate_const(params, OSSL_CIPHER_PARAM_AEAD_TAG);
    if (tag && tag->data) {
        if (g->sealing || tag->data_type != OSSL_PARAM_OCTET_STRING || tag->data_size != TAG_BYTES)
            return 0;
        memcpy(g->tag, tag->data, TAG_BYTES);
        g->has_tag = true;
    }
    const OSSL_PARAM *size = OSSL_PARAM_locate_const(params, OSSL_CIPHER_PARAM_IVLEN);
    size_t value;
    if (size && (!OSSL_PARAM_get_size_t(size, &value) || value != IV_BYTES))
        return 0;
    size = OSSL_PARAM_locate_const(params, OSSL_CIPHER_PARAM_KEYLEN);
    return !size || (OSSL_PARAM_get_size_t(size, &value) && value == g->key_bytes);
}

static const OSSL_PARAM *describable(void *provider)
{
    static const OSSL_PARAM list[] = {
        OSSL_PARAM_uint(OSSL_CIPHER_PARAM_MODE, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_BLOCK_SIZE, NULL),
        OSSL_PARAM_int(OSSL_CIPHER_PARAM_AEAD, NULL),
        OSSL_PARAM_int(OSSL_CIPHER_PARAM_CUSTOM_IV, NULL),
        OSSL_PARAM_END,
    };
    (void)provider;
    return list;
}

static const OSSL_PARAM *context_params(void *ctx, void *provider)
{
    static const OSSL_PARAM list[] = {
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_TAGLEN, NULL),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0),
        OSSL_PARAM_END,
    };
    (void)ctx;
    (void)provider;
    return list;
}

/* --- the provider ------------------------------------------------------------------------------------------
 */

#define FUNCTION(id, f)                                                                                      \
    {                                                                                                        \
        id, (void (*)(void))(f)                                                                              \
    }
#define CIPHER(bits)                                                                                         \
    {                                                                                                        \
        FUNCTION(OSSL_FUNC_CIPHER_NEWCTX, new_##bits), FUNCTION(OSSL_FUNC_CIPHER_FREECTX, gcm_free),         \
            FUNCTION(OSSL_FUNC_CIPHER_DUPCTX, gcm_dup), FUNCTION(OSSL_FUNC_CIPHER_ENCRYPT_INIT, seal_begin), \
            FUNCTION(OSSL_FUNC_CIPHER_DECRYPT_INIT, open_begin),                                             \
            FUNCTION(OSSL_FUNC_CIPHER_UPDATE, gcm_update), FUNCTION(OSSL_FUNC_CIPHER_FINAL, gcm_final),      \
            FUNCTION(OSSL_FUNC_CIPHER_CIPHER, gcm_cipher),                                                   \
            FUNCTION(OSSL_FUNC_CIPHER_GET_PARAMS, describe_##bits),                                          \
            FUNCTION(OSSL_FUNC_CIPHER_GETTABLE_PARAMS, describable),                                         \
            FUNCTION(OSSL_FUNC_CIPHER_GET_CTX_PARAMS, gcm_get_params),                                       \
            FUNCTION(OSSL_FUNC_CIPHER_GETTABLE_CTX_PARAMS, context_params),                                  \
            FUNCTION(OSSL_FUNC_CIPHER_SET_CTX_PARAMS, gcm_set_params),                                       \
            FUNCTION(OSSL_FUNC_CIPHER_SETTABLE_CTX_PARAMS, context_params),                                  \
        {                                                                                                    \
            0, NULL                                                                                          \
        }                                                                                                    \
    }

static const OSSL_DISPATCH aes_128_gcm[] = CIPHER(128);
static const OSSL_DISPATCH aes_256_gcm[] = CIPHER(256);

static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache)
{
    static const OSSL_ALGORITHM ciphers[] = {
        {"AES-128-GCM:id-aes128-GCM:2.16.840.1.101.3.4.1.6", "provider=ferry", aes_128_gcm, NULL},
        {"AES-256-GCM:id-aes256-GCM:2.16.840.1.101.3.4.1.46", "provider=ferry", aes_256_gcm, NULL},
        {NULL, NULL, NULL, NULL},
    };
    (void)provider;
    *no_cache = 0;
    return operation == OSSL_OP_CIPHER ? ciphers : NULL;
}

static int provide(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
                   void **context)
{
    static const OSSL_DISPATCH functions[] = {
        FUNCTION(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query),
        {0, NULL},
    };
    (void)in;
    *out = functions;
    *context = (void *)(uintptr_t)handle; /* not NULL: that would be no provider */
    return 1;
}

static bool offered;
static OSSL_PROVIDER *loaded[2];

/* Before OpenSSL's own clean-up, which frees no provider that somebody holds. Ciphers in use hold theirs. */
static void unload(void)
{
    for (unsigned i = 0; i < FY_ARRAY_LEN(loaded); i++)
        if (loaded[i])
            OSSL_PROVIDER_unload(loaded[i]);
}

/* Where the library has only what OpenSSL has too, OpenSSL stays: AES by whole vectors makes the difference.
 */
static void offer(void)
{
    IMB_ARCH arch = IMB_ARCH_NONE;
    IMB_MGR *m = alloc_mb_mgr(0);
    if (!m)
        return;
    init_mb_mgr_auto(m, &arch);
    uint64_t wanted = IMB_FEATURE_VAES | IMB_FEATURE_VPCLMULQDQ;
    if (arch != IMB_ARCH_AVX512 || (m->features & wanted) != wanted) {
        free_mb_mgr(m);
        return;
    }
    library = m;
    /* A provider loaded by name keeps OpenSSL from loading its own unasked. */
    if (OSSL_PROVIDER_add_builtin(NULL, "ferry", provide) == 1) {
        loaded[0] = OSSL_PROVIDER_load(NULL, "default");
        loaded[1] = OSSL_PROVIDER_load(NULL, "ferry");
    }
    offered = loaded[0] && loaded[1];
    atexit(unload);
}

const char *fy_tls_gcm_query(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, offer);
    return offered ? "?provider=ferry" : NULL;
}
