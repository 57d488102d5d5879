// SPDX-License-Identifier: Apache-2.0
/* "What became of hand-over ID?": one question, one answer, between two daemons' workers. */
#include <stdio.h>

#include "hv/base/io.h"
#include "migrate/control.h"
#include "migrate/run.h"
#include "proto/stream.pb-c.h"

#define CONNECT_TIMEOUT_MS 2000
#define ANSWER_TIMEOUT_MS 5000

static int ask(struct fy_control *c, const Ferry__JobStart *start, Ferry__QueryResult *result,
               char text[FY_ERR_TEXT], struct fy_err *e)
{
    struct fy_record_header h;
    Ferry__PeerQuery q = FERRY__PEER_QUERY__INIT;
    q.handover_id = start->query_id;
    q.abandon = start->query_abandon;
    fy_chan_set_timeout(c->chan, ANSWER_TIMEOUT_MS);
    if (fy_control_send(c, FY_REC_QUERY, &q.base, e) < 0 || fy_control_read(c, FY_REC_ANSWER, &h, e) < 0)
        return -1;
    Ferry__PeerAnswer *a = ferry__peer_answer__unpack(NULL, h.length, c->buf);
    if (!a)
        return fy_fail(e, FY_ECORRUPT, "the peer's answer does not parse");
    int rc = a->code ? fy_fail(e, (int)a->code, "%s", a->text) : 0;
    result->outcome = a->outcome;
    snprintf(text, FY_ERR_TEXT, "%s", a->text);
    result->text = text;
    ferry__peer_answer__free_unpacked(a, NULL);
    return rc;
}

static int query(struct fy_job *job, Ferry__QueryResult *result, char text[FY_ERR_TEXT], struct fy_err *e)
{
    const Ferry__JobStart *start = fy_job_start(job);
    struct fy_control c = {0};
    if (start->query_id.len != FY_JOB_ID_LEN)
        return fy_fail(e, FY_ECORRUPT, "the hand-over's id has %zu bytes", start->query_id.len);
    struct fy_tls *tls = fy_job_tls(job, false, false, e);
    int sock = tls ? fy_tcp_connect(start->address, CONNECT_TIMEOUT_MS, e) : -1;
    int rc = -1;
    if (sock >= 0 && fy_preface_send(sock, FY_PREFACE_QUERY, 0, start->job_id.data, e) == 0 &&
        fy_control_init(&c, e) == 0) {
        c.chan = fy_chan_new(sock, tls, e);
        sock = -1;
        if (c.chan)
            rc = ask(&c, start, result, text, e);
    }
    fy_control_release(&c);
    fy_close(&sock);
    fy_tls_free(tls);
    return rc;
}

int fy_run_query(struct fy_job *job)
{
    struct fy_err e = {0};
    char text[FY_ERR_TEXT] = "";
    struct fy_job_events none = {0};
    Ferry__QueryResult result = FERRY__QUERY_RESULT__INIT;
    Ferry__JobReport report = FERRY__JOB_REPORT__INIT;
    int rc = fy_job_run(job, &none, &e);
    if (rc == 0)
        rc = query(job, &result, text, &e);
    if (rc == 0) {
        Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
        out.kind_case = FERRY__WORKER_OUT__KIND_QUERY_RESULT;
        out.query_result = &result;
        fy_job_tell(job, &out);
    }
    fy_job_report(job, &report, rc < 0 ? &e : NULL);
    return rc < 0 ? e.code : 0;
}

/* Ask our daemon and pass on what it says. */
static int pass_on(struct fy_job *job, struct fy_control *c, Ferry__PeerQuery *q, struct fy_err *e)
{
    Ferry__AnswerQuery m = FERRY__ANSWER_QUERY__INIT;
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    Ferry__WorkerIn *said = NULL;
    Ferry__PeerAnswer a = FERRY__PEER_ANSWER__INIT;
    struct fy_err why = {0};
    m.handover_id = q->handover_id;
    m.peer_host = (char *)(uintptr_t)fy_chan_peer(c->chan);
    m.abandon = q->abandon;
    out.kind_case = FERRY__WORKER_OUT__KIND_ANSWER_QUERY;
    out.answer_query = &m;
    if (fy_job_call(job, &out, &said, NULL, &why) < 0) {
        a.code = (uint32_t)why.code;
        a.text = why.text;
    } else if (said->kind_case == FERRY__WORKER_IN__KIND_QUERY) {
        a.outcome = said->query->outcome;
        a.text = said->query->text;
    } else {
        a.code = FY_EFAIL;
        a.text = (char *)(uintptr_t) "no answer";
    }
    int rc = fy_control_send(c, FY_REC_ANSWER, &a.base, e);
    if (said)
        ferry__worker_in__free_unpacked(said, NULL);
    return rc;
}

static int answer(struct fy_job *job, struct fy_control *c, struct fy_err *e)
{
    struct fy_record_header h;
    fy_chan_set_timeout(c->chan, ANSWER_TIMEOUT_MS);
    if (fy_control_read(c, FY_REC_QUERY, &h, e) < 0)
        return -1;
    Ferry__PeerQuery *q = ferry__peer_query__unpack(NULL, h.length, c->buf);
    int rc = q && q->handover_id.len == FY_JOB_ID_LEN
                 ? pass_on(job, c, q, e)
                 : fy_fail(e, FY_ECORRUPT, "the peer's question does not parse");
    if (q)
        ferry__peer_query__free_unpacked(q, NULL);
    return rc;
}

int fy_run_answer(struct fy_job *job)
{
    struct fy_err e = {0};
    struct fy_job_events none = {0};
    struct fy_control c = {0};
    Ferry__JobReport report = FERRY__JOB_REPORT__INIT;
    int sock = fy_job_take_fd(job, 2);
    struct fy_tls *tls = fy_job_run(job, &none, &e) == 0 ? fy_job_tls(job, true, false, &e) : NULL;
    int rc = -1;
    if (tls && sock >= 0 && fy_control_init(&c, &e) == 0) {
        c.chan = fy_chan_new(sock, tls, &e);
        sock = -1;
        rc = c.chan ? answer(job, &c, &e) : -1;
    }
    fy_control_release(&c);
    fy_close(&sock);
    fy_tls_free(tls);
    fy_job_report(job, &report, rc < 0 ? &e : NULL);
    return rc < 0 ? e.code : 0;
}
