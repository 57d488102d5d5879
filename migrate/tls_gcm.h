// SPDX-License-Identifier: Apache-2.0
/* AES-GCM for OpenSSL from Intel's multi-buffer library, where that is faster (docs/adr/0009). TLS itself
 * stays OpenSSL's: this is the cipher that its record layer fetches. */
#ifndef FERRY_MIGRATE_TLS_GCM_H
#define FERRY_MIGRATE_TLS_GCM_H

/* The property query with which to make an SSL_CTX (SSL_CTX_new_ex) or to fetch AES-128-GCM and AES-256-GCM:
 * "?provider=ferry" where this processor has the wide instructions that the library is faster by, NULL for
 * OpenSSL's own. The first call loads the provider into OpenSSL's default library context; any thread. */
const char *fy_tls_gcm_query(void);

#endif
