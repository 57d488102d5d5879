// SPDX-License-Identifier: Apache-2.0
#include "migrate/target.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "migrate/codec.h"
#include "proto/stream.pb-c.h"

/* --- negotiation
 * --------------------------------------------------------------------------------------------- */

int fy_target_hello(struct fy_target *t, struct fy_err *e)
{
    struct fy_record_header h;
    if (fy_control_read(&t->control, FY_REC_HELLO, &h, e) < 0)
        return -1;
    Ferry__StreamHello *m = ferry__stream_hello__unpack(NULL, h.length, t->control.buf);
    if (!m)
        return fy_fail(e, FY_ECORRUPT, "the source's HELLO does not parse");
    uint32_t version = FY_MIN(m->version_max, (uint32_t)FY_STREAM_VERSION_MAX);
    bool common = version >= m->version_min && version >= FY_STREAM_VERSION_MIN;
    t->channels = FY_MAX(1u, FY_MIN(m->channels, (uint32_t)FY_CHANNELS_MAX));
    t->plaintext = m->plaintext;
    t->verify = m->verify;
    t->start_paused = m->start_paused;
    t->plan_only = m->plan_only;
    uint32_t codecs = m->codecs & FY_CODECS_ALL;
    uint32_t want_min = m->version_min;
    uint32_t want_max = m->version_max;
    ferry__stream_hello__free_unpacked(m, NULL);
    if (!common)
        return fy_fail(e, FY_EREFUSED, "the source speaks stream versions %u to %u, this host %d to %d",
                       want_min, want_max, FY_STREAM_VERSION_MIN, FY_STREAM_VERSION_MAX);
    fy_random(t->ticket, sizeof t->ticket);
    Ferry__JoinChannel join = FERRY__JOIN_CHANNEL__INIT;
    join.channels = t->channels;
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_JOIN;
    out.join = &join;
    fy_job_tell(t->job, &out);
    Ferry__StreamHelloReply r = FERRY__STREAM_HELLO_REPLY__INIT;
    r.version = version;
    r.codecs = codecs;
    r.channels = t->channels;
    r.ticket = (ProtobufCBinaryData){.data = t->ticket, .len = sizeof t->ticket};
    r.host = t->start->local_host;
    return fy_control_send(&t->control, FY_REC_HELLO_REPLY, &r.base, e);
}

static int check_machine(const Ferry__Machine *m, struct fy_err *e)
{
    if (!m || m->uuid.len != FY_JOB_ID_LEN || !m->name || !*m->name || strlen(m->name) > 255)
        return fy_fail(e, FY_ECORRUPT, "the description lacks a name or UUID");
    if (!m->memory_bytes || m->memory_bytes > FY_MEMORY_MAX || m->memory_bytes % (2u << 20) || !m->vcpus ||
        m->vcpus > FY_VCPUS_MAX)
        return fy_fail(e, FY_ECORRUPT, "the description asks for %" PRIu64 " bytes and %u vCPUs",
                       m->memory_bytes, m->vcpus);
    return 0;
}

static int create(struct fy_target *t, Ferry__Machine *machine, struct fy_err *e)
{
    uint8_t digest[FY_CERT_DIGEST] = {0};
    fy_chan_peer_digest(t->control.chan, digest);
    Ferry__CreateIncoming m = FERRY__CREATE_INCOMING__INIT;
    m.machine = machine;
    m.handover_id = t->start->job_id;
    m.peer_host = t->control.peer;
    m.peer_sha256 = (ProtobufCBinaryData){.data = digest, .len = sizeof digest};
    m.plan_only = t->plan_only;
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_CREATE;
    out.create = &m;
    Ferry__WorkerIn *in;
    int fd = -1;
    if (fy_job_call(t->job, &out, &in, &fd, e) < 0)
        return -1;
    int rc = 0;
    if (in->kind_case == FERRY__WORKER_IN__KIND_CREATE) {
        t->report.prealloc_ns = in->create->prealloc_ns;
        snprintf(t->warning, sizeof t->warning, "%s", in->create->warning ? in->create->warning : "");
    }
    ferry__worker_in__free_unpacked(in, NULL);
    if (t->plan_only) {
        fy_close(&fd);
        return 0;
    }
    t->created = true;
    if (fd < 0)
        return fy_fail(e, FY_EFAIL, "the daemon gave no control socket for the new guest");
    t->ctl = fy_ctl_new(fd, 60000, e);
    if (!t->ctl)
        return -1;
    uint64_t bytes;
    bool large;
    rc = fy_ctl_memory(t->ctl, true, &t->mem_fd, &bytes, &large, e);
    if (rc < 0)
        return -1;
    t->memory_pages = bytes / FY_PAGE_SIZE;
    struct fy_sink_config cfg = {.mem_fd = t->mem_fd,
                                 .pages = t->memory_pages,
                                 .map = machine->hugepages || large,
                                 .count = t->channels,
                                 .tls = t->plaintext ? NULL : t->tls,
                                 .wake_fd = t->wake_fd};
    memcpy(cfg.ticket, t->ticket, sizeof cfg.ticket);
    memcpy(cfg.peer_digest, digest, sizeof cfg.peer_digest);
    struct fy_sink *sink = fy_sink_new(&cfg, e);
    pthread_mutex_lock(&t->lock);
    t->sink = sink;
    pthread_mutex_unlock(&t->lock);
    return sink ? 0 : -1;
}

/* One reason a line becomes one string each; text is cut up in place. */
static int send_verdict(struct fy_target *t, struct fy_err *refusal, struct fy_err *e)
{
    char *reasons[32];
    Ferry__StreamVerdict v = FERRY__STREAM_VERDICT__INIT;
    struct fy_err copy;
    v.accepted = !refusal;
    v.prealloc_ns = t->report.prealloc_ns;
    v.warning = t->warning;
    if (refusal) {
        copy = *refusal;
        char *save = NULL;
        v.code = (uint32_t)refusal->code;
        v.reasons = reasons;
        for (char *p = strtok_r(copy.text, "\n", &save); p && v.n_reasons < FY_ARRAY_LEN(reasons);
             p = strtok_r(NULL, "\n", &save))
            reasons[v.n_reasons++] = p;
    }
    return fy_control_send(&t->control, FY_REC_VERDICT, &v.base, e);
}

int fy_target_description(struct fy_target *t, struct fy_err *e)
{
    struct fy_record_header h;
    if (fy_control_read(&t->control, FY_REC_DESCRIPTION, &h, e) < 0)
        return -1;
    Ferry__StreamDescription *m = ferry__stream_description__unpack(NULL, h.length, t->control.buf);
    if (!m)
        return fy_fail(e, FY_ECORRUPT, "the source's DESCRIPTION does not parse");
    int rc = check_machine(m->machine, e);
    if (rc == 0)
        rc = fy_target_fault(FY_FAULT_DST_CONNECTED, e);
    if (rc == 0) {
        t->report.ram_bytes = m->machine->memory_bytes;
        t->has_nics = m->machine->n_nics > 0;
        rc = create(t, m->machine, e);
        if (rc < 0) {
            struct fy_err ignored;
            send_verdict(t, e, &ignored);
        }
    }
    ferry__stream_description__free_unpacked(m, NULL);
    if (rc == 0)
        rc = fy_target_fault(FY_FAULT_DST_CREATED, e);
    return rc < 0 ? -1 : send_verdict(t, NULL, e);
}
