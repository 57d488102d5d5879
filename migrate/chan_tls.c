// SPDX-License-Identifier: Apache-2.0
/* Channels: buffered socket I/O and TLS 1.3 over it. The only place where a peer's bytes meet OpenSSL's
 * record layer. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "migrate/chan.h"
#include "migrate/tls_gcm.h"

#define WRITE_BUFFER (64 * 1024) /* small: it shares a core's second-level cache with a batch */
#define READ_BUFFER (256 * 1024)
#define READ_HEAD                                                                                            \
    (8 * 1024) /* in clear: a record's header and runs, and little of pages that are read in place */
#define HANDSHAKE_TIMEOUT_MS 5000
#define DEFAULT_TIMEOUT_MS 15000
#define SHORT_PATH_US 300
/* AES-GCM keys are renewed long before RFC 8446 section 5.5's 2^24.5 records of 16 KiB. */
#define REKEY_BYTES (64ull << 30)

struct fy_tls {
    SSL_CTX *ctx;
    bool server;
    bool anyone;
    struct fy_pin *pins;
    size_t pin_count;
};

struct fy_chan {
    int sock;
    SSL *ssl; /* NULL: in clear */
    char peer[128];
    uint8_t peer_digest[FY_CERT_DIGEST];
    atomic_bool aborted;
    uint64_t wire_bytes;
    uint64_t since_rekey;
    size_t wlen; /* bytes in wbuf */
    size_t rpos, rlen;
    int sock_errno; /* of the last failed socket call, for messages */
    uint8_t wbuf[WRITE_BUFFER];
    uint8_t rbuf[READ_BUFFER];
};

static const char *ssl_reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *r = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return r ? r : "protocol error";
}

/* --- raw socket, with the write buffer ---------------------------------------------------------------------
 */

static int push(struct fy_chan *c, const uint8_t *p, size_t len)
{
    while (len) {
        ssize_t n = send(c->sock, p, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            c->sock_errno = errno;
            return -1;
        }
        c->wire_bytes += (uint64_t)n;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int raw_flush(struct fy_chan *c)
{
    size_t n = c->wlen;
    c->wlen = 0;
    return push(c, c->wbuf, n);
}

static int raw_write(struct fy_chan *c, const uint8_t *p, size_t len)
{
    if (len >= WRITE_BUFFER / 2) { /* large: not worth a copy */
        if (raw_flush(c) < 0)
            return -1;
        return push(c, p, len);
    }
    if (c->wlen + len > WRITE_BUFFER && raw_flush(c) < 0)
        return -1;
    memcpy(c->wbuf + c->wlen, p, len);
    c->wlen += len;
    return 0;
}

/* Some bytes: 1..len, 0 at the end, -1. */
static ssize_t raw_read(struct fy_chan *c, uint8_t *p, size_t len)
{
    if (c->rpos == c->rlen) {
        bool direct = len >= READ_BUFFER / 8; /* as OpenSSL asks when it reads ahead */
        size_t ahead = c->ssl ? READ_BUFFER : READ_HEAD;
        ssize_t n;
        do
            n = recv(c->sock, direct ? p : c->rbuf, direct ? len : ahead, 0);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            c->sock_errno = errno;
        if (n <= 0 || direct)
            return n;
        c->rpos = 0;
        c->rlen = (size_t)n;
    }
    size_t n = FY_MIN(len, c->rlen - c->rpos);
    memcpy(p, c->rbuf + c->rpos, n);
    c->rpos += n;
    return (ssize_t)n;
}

/* --- a BIO over it, so that OpenSSL's 16 KiB records share system calls
 * -------------------------------------- */

static int bio_write(BIO *b, const char *data, int len)
{
    return raw_write(BIO_get_data(b), (const uint8_t *)data, (size_t)len) < 0 ? -1 : len;
}

static int bio_read(BIO *b, char *data, int len)
{
    return (int)raw_read(BIO_get_data(b), (uint8_t *)data, (size_t)len);
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    (void)num;
    (void)ptr;
    if (cmd == BIO_CTRL_FLUSH)
        return raw_flush(BIO_get_data(b)) < 0 ? -1 : 1;
    return cmd == BIO_CTRL_DUP;
}

static BIO *bio_new(struct fy_chan *c)
{
    static _Atomic(BIO_METHOD *) method;
    BIO_METHOD *m = atomic_load(&method);
    if (!m) {
        BIO_METHOD *fresh = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "ferry channel");
        if (!fresh)
            return NULL;
        BIO_meth_set_write(fresh, bio_write);
        BIO_meth_set_read(fresh, bio_read);
        BIO_meth_set_ctrl(fresh, bio_ctrl);
        if (atomic_compare_exchange_strong(&method, &m, fresh))
            m = fresh;
        else
            BIO_meth_free(fresh);
    }
    BIO *b = BIO_new(m);
    if (b) {
        BIO_set_data(b, c);
        BIO_set_init(b, 1);
    }
    return b;
}

/* --- credentials
 * --------------------------------------------------------------------------------------------- */

static BIO *pem_bio(int fd, struct fy_err *e)
{
    char buf[16384];
    ssize_t n = pread(fd, buf, sizeof buf, 0);
    if (n <= 0 || n == (ssize_t)sizeof buf) {
        fy_fail(e, FY_EFAIL, "the host's key or certificate cannot be read (run `vmctl host init`)");
        return NULL;
    }
    BIO *b = BIO_new(BIO_s_mem());
    if (b)
        BIO_write(b, buf, (int)n);
    OPENSSL_cleanse(buf, sizeof buf);
    return b;
}

static int use_identity(SSL_CTX *ctx, int key_fd, int cert_fd, struct fy_err *e)
{
    BIO *kb = pem_bio(key_fd, e);
    BIO *cb = kb ? pem_bio(cert_fd, e) : NULL;
    EVP_PKEY *key = kb ? PEM_read_bio_PrivateKey(kb, NULL, NULL, NULL) : NULL;
    X509 *cert = cb ? PEM_read_bio_X509(cb, NULL, NULL, NULL) : NULL;
    int rc = -1;
    if (kb && cb) {
        if (key && cert && SSL_CTX_use_certificate(ctx, cert) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1)
            rc = 0;
        else
            fy_fail(e, FY_EFAIL, "the host's key or certificate is damaged: %s (run `vmctl host init`)",
                    ssl_reason());
    }
    EVP_PKEY_free(key);
    X509_free(cert);
    BIO_free(kb);
    BIO_free(cb);
    return rc;
}

static int cert_digest(X509 *cert, uint8_t digest[FY_CERT_DIGEST])
{
    unsigned len = FY_CERT_DIGEST;
    return X509_digest(cert, EVP_sha256(), digest, &len) == 1 && len == FY_CERT_DIGEST ? 0 : -1;
}

/* Trust is the pinned certificate itself: no chain, no names, no dates. */
static int verify_pinned(X509_STORE_CTX *store, void *arg)
{
    const struct fy_tls *tls = arg;
    X509 *cert = X509_STORE_CTX_get0_cert(store);
    uint8_t digest[FY_CERT_DIGEST];
    if (!cert || cert_digest(cert, digest) < 0)
        return 0;
    if (tls->anyone)
        return 1;
    for (size_t i = 0; i < tls->pin_count; i++)
        if (!memcmp(tls->pins[i].digest, digest, sizeof digest))
            return 1;
    X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
    return 0;
}

struct fy_tls *fy_tls_new(int key_fd, int cert_fd, bool server, const struct fy_pin *pins, size_t pin_count,
                          bool anyone, struct fy_err *e)
{
    struct fy_tls *tls = calloc(1, sizeof *tls);
    if (!tls)
        goto no_memory;
    tls->server = server;
    tls->anyone = anyone;
    tls->pins = calloc(pin_count + 1, sizeof *pins);
    if (!tls->pins)
        goto no_memory;
    if (pin_count)
        memcpy(tls->pins, pins, pin_count * sizeof *pins);
    tls->pin_count = pin_count;
    /* The system's configuration file can only weaken what is fixed below, and reading it takes milliseconds.
     */
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    const char *query = fy_tls_gcm_query();
    tls->ctx = SSL_CTX_new_ex(NULL, query, server ? TLS_server_method() : TLS_client_method());
    if (!tls->ctx)
        goto no_memory;
    SSL_CTX_set_min_proto_version(tls->ctx, TLS1_3_VERSION);
    SSL_CTX_set_ciphersuites(tls->ctx,
                             "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256");
    /* No tickets: nothing but our records ever flows, and every channel proves its keys anew. */
    SSL_CTX_set_num_tickets(tls->ctx, 0);
    SSL_CTX_set_session_cache_mode(tls->ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(tls->ctx, SSL_MODE_AUTO_RETRY | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                   SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(tls->ctx, 1);
    SSL_CTX_set_default_read_buffer_len(tls->ctx, 64 * 1024);
    SSL_CTX_set_verify(tls->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(tls->ctx, verify_pinned, tls);
    if (use_identity(tls->ctx, key_fd, cert_fd, e) == 0)
        return tls;
    fy_tls_free(tls);
    return NULL;
no_memory:
    fy_tls_free(tls);
    fy_fail(e, FY_ERESOURCE, "no memory for TLS");
    return NULL;
}

void fy_tls_free(struct fy_tls *tls)
{
    if (!tls)
        return;
    SSL_CTX_free(tls->ctx);
    free(tls->pins);
    free(tls);
}

/* --- channels
 * ------------------------------------------------------------------------------------------------ */

static int fail_io(struct fy_chan *c, const char *doing, struct fy_err *e)
{
    if (atomic_load(&c->aborted))
        return fy_fail(e, FY_ECANCELLED, "the connection was closed on this side");
    if (c->sock_errno == EAGAIN || c->sock_errno == EWOULDBLOCK)
        return fy_fail(e, FY_EUNREACHABLE, "the peer stays silent while %s (link down or host stopped?)",
                       doing);
    if (c->sock_errno)
        return fy_fail_errno(e, FY_EUNREACHABLE, c->sock_errno, "the connection broke while %s", doing);
    return fy_fail(e, FY_EUNREACHABLE, "the peer closed the connection while %s", doing);
}

static int handshake(struct fy_chan *c, struct fy_tls *tls, struct fy_err *e)
{
    c->ssl = SSL_new(tls->ctx);
    BIO *bio = c->ssl ? bio_new(c) : NULL;
    if (!bio)
        return fy_fail(e, FY_ERESOURCE, "no memory for TLS");
    SSL_set_bio(c->ssl, bio, bio);
    ERR_clear_error();
    int rc = tls->server ? SSL_accept(c->ssl) : SSL_connect(c->ssl);
    if (rc != 1) {
        long verify = SSL_get_verify_result(c->ssl);
        int kind = SSL_get_error(c->ssl, rc);
        raw_flush(c); /* the alert, so that the peer knows why */
        if (verify == X509_V_ERR_CERT_REJECTED)
            return fy_fail(e, FY_EAUTH,
                           "the peer's certificate is not the pinned one (pair the hosts: vmctl host invite, "
                           "vmctl host join)");
        if (kind == SSL_ERROR_SYSCALL || ERR_peek_last_error() == 0)
            return fail_io(c, "proving who is who", e);
        return fy_fail(e, FY_EAUTH, "TLS with the peer failed: %s (are the hosts paired?)", ssl_reason());
    }
    if (raw_flush(c) < 0)
        return fail_io(c, "proving who is who", e);
    X509 *cert = SSL_get0_peer_certificate(c->ssl);
    if (!cert || cert_digest(cert, c->peer_digest) < 0)
        return fy_fail(e, FY_EAUTH, "the peer showed no certificate");
    for (size_t i = 0; i < tls->pin_count; i++)
        if (!memcmp(tls->pins[i].digest, c->peer_digest, FY_CERT_DIGEST))
            memcpy(c->peer, tls->pins[i].host, sizeof c->peer);
    return 0;
}

/* On a short path a deep receive queue wins nothing and costs cache: data waits in it until it has fallen
 * out. 512 KiB (the kernel doubles it) still holds 25 Gbit/s for 300 us. Longer paths keep the kernel's own
 * growth. */
static void fit_queue(int sock)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    int bytes = 512 * 1024;
    if (getsockopt(sock, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_rtt &&
        info.tcpi_rtt <= SHORT_PATH_US)
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

static void set_options(int sock)
{
    int on = 1;
    int idle = 3;
    int interval = 2;
    int count = 3;
    unsigned user_timeout = DEFAULT_TIMEOUT_MS;
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(sock, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(sock, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(sock, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(sock, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(sock, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof user_timeout);
    fit_queue(sock);
}

struct fy_chan *fy_chan_new(int sock, struct fy_tls *tls, struct fy_err *e)
{
    struct fy_chan *c = calloc(1, sizeof *c);
    if (!c) {
        fy_close(&sock);
        fy_fail(e, FY_ERESOURCE, "no memory for a channel");
        return NULL;
    }
    c->sock = sock;
    set_options(sock);
    fy_chan_set_timeout(c, HANDSHAKE_TIMEOUT_MS);
    if (tls && handshake(c, tls, e) < 0) {
        fy_chan_free(c);
        return NULL;
    }
    fy_chan_set_timeout(c, DEFAULT_TIMEOUT_MS);
    return c;
}

void fy_chan_free(struct fy_chan *c)
{
    if (!c)
        return;
    SSL_free(c->ssl);
    fy_close(&c->sock);
    free(c);
}

int fy_chan_write(struct fy_chan *c, const void *buf, size_t len, struct fy_err *e)
{
    const uint8_t *p = buf;
    if (!c->ssl)
        return raw_write(c, p, len) < 0 ? fail_io(c, "sending", e) : 0;
    while (len) {
        size_t n;
        ERR_clear_error();
        if (SSL_write_ex(c->ssl, p, len, &n) != 1)
            return fail_io(c, "sending", e);
        c->since_rekey += n;
        p += n;
        len -= n;
    }
    if (c->since_rekey >= REKEY_BYTES) {
        c->since_rekey = 0;
        SSL_key_update(c->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
    }
    return 0;
}

int fy_chan_flush(struct fy_chan *c, struct fy_err *e)
{
    return raw_flush(c) < 0 ? fail_io(c, "sending", e) : 0;
}

/* An error of OpenSSL while reading. With TLS 1.3 a server refuses a client's certificate only after the
 * client's handshake is through, so that the refusal arrives here, as an alert. */
static int fail_tls(struct fy_err *e)
{
    switch (ERR_GET_REASON(ERR_peek_last_error())) {
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        ERR_clear_error();
        return fy_fail(e, FY_EAUTH,
                       "the peer does not trust this host's certificate (pair the hosts: vmctl host invite, "
                       "vmctl host join)");
    default:
        return fy_fail(e, FY_ECORRUPT, "TLS record from the peer is damaged: %s", ssl_reason());
    }
}

int fy_chan_read(struct fy_chan *c, void *buf, size_t len, struct fy_err *e)
{
    uint8_t *p = buf;
    while (len) {
        size_t n = 0;
        if (c->ssl) {
            ERR_clear_error();
            c->sock_errno = 0;
            if (SSL_read_ex(c->ssl, p, len, &n) != 1) {
                unsigned long code = ERR_peek_last_error();
                if (code && ERR_GET_LIB(code) == ERR_LIB_SSL &&
                    ERR_GET_REASON(code) != SSL_R_UNEXPECTED_EOF_WHILE_READING)
                    return fail_tls(e);
                return fail_io(c, "receiving", e);
            }
        } else {
            c->sock_errno = 0;
            ssize_t r = raw_read(c, p, len);
            if (r <= 0)
                return fail_io(c, "receiving", e);
            n = (size_t)r;
        }
        p += n;
        len -= n;
    }
    return 0;
}

int fy_chan_wait(struct fy_chan *c, int event_fd, int timeout_ms, struct fy_err *e)
{
    if (c->rpos != c->rlen || (c->ssl && SSL_has_pending(c->ssl)))
        return 1;
    struct pollfd p[2] = {{.fd = c->sock, .events = POLLIN}, {.fd = event_fd, .events = POLLIN}};
    int n;
    do
        n = poll(p, event_fd >= 0 ? 2 : 1, timeout_ms);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "cannot wait for the peer");
    if (p[0].revents)
        return 1;
    return n ? 2 : 0;
}

void fy_chan_abort(struct fy_chan *c)
{
    atomic_store(&c->aborted, true);
    shutdown(c->sock, SHUT_RDWR);
}

void fy_chan_set_timeout(struct fy_chan *c, unsigned ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};
    setsockopt(c->sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(c->sock, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
}

uint64_t fy_chan_path_ns(const struct fy_chan *c)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    return getsockopt(c->sock, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 ? info.tcpi_rtt * 1000ull : 0;
}

uint64_t fy_chan_wire_bytes(const struct fy_chan *c)
{
    return c->wire_bytes;
}

const char *fy_chan_peer(const struct fy_chan *c)
{
    return c->peer;
}

bool fy_chan_is_tls(const struct fy_chan *c)
{
    return c->ssl != NULL;
}

int fy_chan_peer_digest(const struct fy_chan *c, uint8_t digest[FY_CERT_DIGEST])
{
    if (!c->ssl)
        return -1;
    memcpy(digest, c->peer_digest, FY_CERT_DIGEST);
    return 0;
}

long fy_chan_peer_cert(const struct fy_chan *c, uint8_t *buf, size_t room)
{
    X509 *cert = c->ssl ? SSL_get0_peer_certificate(c->ssl) : NULL;
    int len = cert ? i2d_X509(cert, NULL) : -1;
    if (len < 0 || (size_t)len > room)
        return -1;
    return i2d_X509(cert, &buf);
}

int fy_chan_exporter(const struct fy_chan *c, const char *label, uint8_t out[32], struct fy_err *e)
{
    if (!c->ssl || SSL_export_keying_material(c->ssl, out, 32, label, strlen(label), NULL, 0, 0) != 1)
        return fy_fail(e, FY_EAUTH, "the TLS exporter failed");
    return 0;
}
