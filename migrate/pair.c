// SPDX-License-Identifier: Apache-2.0
/* Pairing: the joiner knows the inviter's certificate digest and a secret from the token; both prove the
 * secret over the TLS exporter, so that neither a listener nor a relay learns or reuses anything, and each
 * pins the other's certificate. */
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/io.h"
#include "migrate/identity.h"
#include "migrate/run.h"
#include "migrate/stream.h"
#include "proto/stream.pb-c.h"

#define EXPORTER_LABEL "EXPORTER-ferry-pairing"
#define SECRET_LEN 16
#define CERT_MAX 16384
#define TIMEOUT_MS 5000

static int make_proof(struct fy_chan *c, const Ferry__JobStart *start, const char *role, uint8_t out[32],
                      struct fy_err *e)
{
    uint8_t exported[32];
    if (start->pair_secret.len != SECRET_LEN)
        return fy_fail(e, FY_ECORRUPT, "the pairing secret has %zu bytes, not %d", start->pair_secret.len,
                       SECRET_LEN);
    if (fy_chan_exporter(c, EXPORTER_LABEL, exported, e) < 0)
        return -1;
    fy_hmac(start->pair_secret.data, SECRET_LEN, exported, sizeof exported, role, strlen(role), out);
    return 0;
}

static bool proof_ok(const ProtobufCBinaryData *given, const uint8_t want[32])
{
    return given->len == 32 && CRYPTO_memcmp(given->data, want, 32) == 0;
}

/* Have the daemon pin the other side's certificate. */
static int pin(struct fy_job *job, struct fy_chan *c, char *host, char *address, struct fy_err *e)
{
    uint8_t *der = malloc(CERT_MAX);
    long len = der ? fy_chan_peer_cert(c, der, CERT_MAX) : -1;
    int rc = -1;
    if (len < 0) {
        fy_fail(e, FY_ECORRUPT, "the peer's certificate cannot be read");
    } else {
        Ferry__Paired m = FERRY__PAIRED__INIT;
        Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
        m.host = host;
        m.address = address;
        m.certificate = (ProtobufCBinaryData){.data = der, .len = (size_t)len};
        out.kind_case = FERRY__WORKER_OUT__KIND_PAIRED;
        out.paired = &m;
        rc = fy_job_call(job, &out, NULL, NULL, e);
    }
    free(der);
    return rc;
}

static int join(struct fy_job *job, struct fy_chan *c, struct fy_err *e)
{
    const Ferry__JobStart *start = fy_job_start(job);
    struct fy_flow in = {0};
    struct fy_flow out = {0};
    struct fy_record_header h;
    uint8_t proof[32];
    uint8_t want[32];
    uint8_t *buf = malloc(FY_RECORD_BODY_MAX);
    Ferry__PairReply *r = NULL;
    int rc = buf ? 0 : fy_fail(e, FY_ERESOURCE, "no memory to pair");
    fy_chan_set_timeout(c, TIMEOUT_MS);
    if (rc == 0 &&
        (make_proof(c, start, "join", proof, e) < 0 || make_proof(c, start, "invite", want, e) < 0))
        rc = -1;
    if (rc == 0) {
        Ferry__PairRequest q = FERRY__PAIR_REQUEST__INIT;
        q.host = start->local_host;
        q.address = start->local_address;
        q.proof = (ProtobufCBinaryData){.data = proof, .len = sizeof proof};
        rc = fy_record_send_proto(c, &out, FY_REC_PAIR, &q.base, e);
    }
    if (rc == 0)
        rc = fy_record_read(c, &in, buf, &h, e);
    if (rc == 0 && (h.type != FY_REC_PAIR_REPLY || !(r = ferry__pair_reply__unpack(NULL, h.length, buf))))
        rc = fy_fail(e, FY_ECORRUPT, "the inviter's reply does not parse");
    if (rc == 0 && r->code)
        rc = fy_fail(e, (int)r->code, "the inviter refuses: %s", r->text);
    if (rc == 0 && !proof_ok(&r->proof, want))
        rc = fy_fail(e, FY_EAUTH, "the inviter does not know the token's secret");
    if (rc == 0)
        rc = pin(job, c, r->host, *r->address ? r->address : start->address, e);
    if (r)
        ferry__pair_reply__free_unpacked(r, NULL);
    free(buf);
    return rc;
}

static int accept_pair(struct fy_job *job, struct fy_chan *c, struct fy_err *e)
{
    const Ferry__JobStart *start = fy_job_start(job);
    struct fy_flow in = {0};
    struct fy_flow out = {0};
    struct fy_record_header h;
    uint8_t proof[32];
    uint8_t want[32];
    uint8_t *buf = malloc(FY_RECORD_BODY_MAX);
    Ferry__PairRequest *q = NULL;
    int rc = buf ? 0 : fy_fail(e, FY_ERESOURCE, "no memory to pair");
    fy_chan_set_timeout(c, TIMEOUT_MS);
    if (rc == 0 &&
        (make_proof(c, start, "join", want, e) < 0 || make_proof(c, start, "invite", proof, e) < 0))
        rc = -1;
    if (rc == 0)
        rc = fy_record_read(c, &in, buf, &h, e);
    if (rc == 0 && (h.type != FY_REC_PAIR || !(q = ferry__pair_request__unpack(NULL, h.length, buf))))
        rc = fy_fail(e, FY_ECORRUPT, "the joiner's request does not parse");
    if (rc == 0 && !proof_ok(&q->proof, want))
        rc = fy_fail(e, FY_EAUTH, "the joiner does not know the invite's secret");
    if (rc == 0)
        rc = pin(job, c, q->host, q->address, e);
    Ferry__PairReply r = FERRY__PAIR_REPLY__INIT;
    struct fy_err ignored;
    r.host = start->local_host;
    r.address = start->local_address;
    if (rc == 0) {
        r.proof = (ProtobufCBinaryData){.data = proof, .len = sizeof proof};
    } else {
        r.code = (uint32_t)e->code;
        r.text = e->text;
    }
    if (fy_record_send_proto(c, &out, FY_REC_PAIR_REPLY, &r.base, &ignored) == 0)
        fy_chan_wait(c, -1, TIMEOUT_MS, &ignored); /* until the joiner has read it and closes */
    if (q)
        ferry__pair_request__free_unpacked(q, NULL);
    free(buf);
    return rc;
}

int fy_run_pair_join(struct fy_job *job)
{
    struct fy_err e = {0};
    struct fy_job_events none = {0};
    Ferry__JobReport report = FERRY__JOB_REPORT__INIT;
    const Ferry__JobStart *start = fy_job_start(job);
    int key = fy_job_take_fd(job, 0);
    int cert = fy_job_take_fd(job, 1);
    struct fy_pin inviter = {0};
    struct fy_tls *tls = NULL;
    if (start->pair_digest.len != FY_CERT_DIGEST) {
        fy_fail(&e, FY_ECORRUPT, "the token holds no certificate digest");
    } else {
        memcpy(inviter.digest, start->pair_digest.data, FY_CERT_DIGEST);
        tls = fy_tls_new(key, cert, false, &inviter, 1, false, &e);
    }
    fy_close(&key);
    fy_close(&cert);
    int sock = tls && fy_job_run(job, &none, &e) == 0 ? fy_tcp_connect(start->address, TIMEOUT_MS, &e) : -1;
    struct fy_chan *c = NULL;
    if (sock >= 0 && fy_preface_send(sock, FY_PREFACE_PAIR, 0, start->job_id.data, &e) == 0) {
        c = fy_chan_new(sock, tls, &e);
        sock = -1;
    }
    int rc = c ? join(job, c, &e) : -1;
    fy_chan_free(c);
    fy_close(&sock);
    fy_tls_free(tls);
    fy_job_report(job, &report, rc < 0 ? &e : NULL);
    return rc < 0 ? e.code : 0;
}

int fy_run_pair_accept(struct fy_job *job)
{
    struct fy_err e = {0};
    struct fy_job_events none = {0};
    Ferry__JobReport report = FERRY__JOB_REPORT__INIT;
    int sock = fy_job_take_fd(job, 2);
    struct fy_tls *tls = fy_job_run(job, &none, &e) == 0 ? fy_job_tls(job, true, true, &e) : NULL;
    struct fy_chan *c = NULL;
    if (tls && sock >= 0) {
        c = fy_chan_new(sock, tls, &e);
        sock = -1;
    }
    int rc = c ? accept_pair(job, c, &e) : -1;
    fy_chan_free(c);
    fy_close(&sock);
    fy_tls_free(tls);
    fy_job_report(job, &report, rc < 0 ? &e : NULL);
    return rc < 0 ? e.code : 0;
}
