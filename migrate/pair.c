// SPDX-License-Identifier: Apache-2.0
/* Pairing: the joiner knows the inviter's certificate digest and a secret from the token; both prove the
 * secret over the TLS exporter, so that neither a listener nor a relay learns or reuses anything, and each
 * pins the other's certificate. */
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/io.h"
#include "migrate/control.h"
#include "migrate/identity.h"
#include "migrate/run.h"
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

/* Both proofs of this TLS session: the joiner's and the inviter's. */
static int make_proofs(struct fy_control *c, const Ferry__JobStart *start, uint8_t joiner[32],
                       uint8_t inviter[32], struct fy_err *e)
{
    fy_chan_set_timeout(c->chan, TIMEOUT_MS);
    return make_proof(c->chan, start, "join", joiner, e) < 0
               ? -1
               : make_proof(c->chan, start, "invite", inviter, e);
}

static int join(struct fy_job *job, struct fy_control *c, struct fy_err *e)
{
    const Ferry__JobStart *start = fy_job_start(job);
    struct fy_record_header h;
    uint8_t ours[32];
    uint8_t theirs[32];
    Ferry__PairRequest q = FERRY__PAIR_REQUEST__INIT;
    if (make_proofs(c, start, ours, theirs, e) < 0)
        return -1;
    q.host = start->local_host;
    q.address = start->local_address;
    q.proof = (ProtobufCBinaryData){.data = ours, .len = sizeof ours};
    if (fy_control_send(c, FY_REC_PAIR, &q.base, e) < 0 || fy_control_read(c, FY_REC_PAIR_REPLY, &h, e) < 0)
        return -1;
    Ferry__PairReply *r = ferry__pair_reply__unpack(NULL, h.length, c->buf);
    if (!r)
        return fy_fail(e, FY_ECORRUPT, "the inviter's reply does not parse");
    int rc = 0;
    if (r->code)
        rc = fy_fail(e, (int)r->code, "the inviter refuses: %s", r->text);
    else if (!proof_ok(&r->proof, theirs))
        rc = fy_fail(e, FY_EAUTH, "the inviter does not know the token's secret");
    else
        rc = pin(job, c->chan, r->host, *r->address ? r->address : start->address, e);
    ferry__pair_reply__free_unpacked(r, NULL);
    return rc;
}

static int check_joiner(struct fy_job *job, struct fy_control *c, const uint8_t want[32], struct fy_err *e)
{
    struct fy_record_header h;
    if (fy_control_read(c, FY_REC_PAIR, &h, e) < 0)
        return -1;
    Ferry__PairRequest *q = ferry__pair_request__unpack(NULL, h.length, c->buf);
    if (!q)
        return fy_fail(e, FY_ECORRUPT, "the joiner's request does not parse");
    int rc = proof_ok(&q->proof, want) ? pin(job, c->chan, q->host, q->address, e)
                                       : fy_fail(e, FY_EAUTH, "the joiner does not know the invite's secret");
    ferry__pair_request__free_unpacked(q, NULL);
    return rc;
}

static int accept_pair(struct fy_job *job, struct fy_control *c, struct fy_err *e)
{
    const Ferry__JobStart *start = fy_job_start(job);
    uint8_t ours[32];
    uint8_t theirs[32];
    struct fy_err ignored;
    Ferry__PairReply r = FERRY__PAIR_REPLY__INIT;
    int rc = make_proofs(c, start, theirs, ours, e) < 0 ? -1 : check_joiner(job, c, theirs, e);
    r.host = start->local_host;
    r.address = start->local_address;
    if (rc == 0) {
        r.proof = (ProtobufCBinaryData){.data = ours, .len = sizeof ours};
    } else {
        r.code = (uint32_t)e->code;
        r.text = e->text;
    }
    if (fy_control_send(c, FY_REC_PAIR_REPLY, &r.base, &ignored) == 0)
        fy_chan_wait(c->chan, -1, TIMEOUT_MS, &ignored); /* until the joiner has read it and closes */
    return rc;
}

/* Make a channel of sock (its own from here on), run one side over it, report. */
static int finish(struct fy_job *job, int sock, struct fy_tls *tls,
                  int (*side)(struct fy_job *, struct fy_control *, struct fy_err *), struct fy_err *e)
{
    Ferry__JobReport report = FERRY__JOB_REPORT__INIT;
    struct fy_control c = {0};
    int rc = -1;
    if (tls && sock >= 0 && fy_control_init(&c, e) == 0) {
        c.chan = fy_chan_new(sock, tls, e);
        sock = -1;
        rc = c.chan ? side(job, &c, e) : -1;
    }
    fy_control_release(&c);
    fy_close(&sock);
    fy_tls_free(tls);
    fy_job_report(job, &report, rc < 0 ? e : NULL);
    return rc < 0 ? e->code : 0;
}

int fy_run_pair_join(struct fy_job *job)
{
    struct fy_err e = {0};
    struct fy_job_events none = {0};
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
    if (sock >= 0 && fy_preface_send(sock, FY_PREFACE_PAIR, 0, start->job_id.data, &e) < 0)
        fy_close(&sock);
    return finish(job, sock, tls, join, &e);
}

int fy_run_pair_accept(struct fy_job *job)
{
    struct fy_err e = {0};
    struct fy_job_events none = {0};
    int sock = fy_job_take_fd(job, 2);
    struct fy_tls *tls = fy_job_run(job, &none, &e) == 0 ? fy_job_tls(job, true, true, &e) : NULL;
    return finish(job, sock, tls, accept_pair, &e);
}
