// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/fault.h"
#include "hv/base/io.h"
#include "migrate/receiver.h"
#include "migrate/source.h"

#define CONNECT_TIMEOUT_MS 5000
/* Touching a large guest's memory on the target can take minutes. */
#define VERDICT_TIMEOUT_MS 600000
#define CHANNELS_AUTO 2

/* Publish a channel for the cancel's abort; when the cancel came first, abort at once. */
static void publish(struct fy_source *s, struct fy_chan **slot, struct fy_chan *c)
{
    pthread_mutex_lock(&s->gate_lock);
    *slot = c;
    if (s->gate == FY_GATE_CANCELLED)
        fy_chan_abort(c);
    pthread_mutex_unlock(&s->gate_lock);
}

static struct fy_chan *connect_channel(struct fy_source *s, unsigned number, bool tls, struct fy_err *e)
{
    int sock = fy_tcp_connect(s->start->address, CONNECT_TIMEOUT_MS, e);
    if (sock < 0)
        return NULL;
    if (fy_preface_send(sock, FY_PREFACE_MIGRATE, number, s->start->job_id.data, e) < 0) {
        fy_close(&sock);
        return NULL;
    }
    return fy_chan_new(sock, tls ? s->tls : NULL, e);
}

static unsigned channels_wanted(const struct fy_source *s)
{
    unsigned n = s->opts->channels;
    if (!n) {
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        n = cpus <= 2 ? CHANNELS_AUTO : (unsigned)(cpus / 2 > 8 ? 8 : cpus / 2);
    }
    return n > FY_CHANNELS_MAX ? FY_CHANNELS_MAX : n;
}

static int hello(struct fy_source *s, struct fy_err *e)
{
    Ferry__StreamHello m = FERRY__STREAM_HELLO__INIT;
    m.version_min = FY_STREAM_VERSION_MIN;
    m.version_max = FY_STREAM_VERSION_MAX;
    m.codecs = FY_CODECS_ALL;
    m.channels = channels_wanted(s);
    m.plaintext = s->opts->plaintext;
    m.verify = s->opts->verify;
    m.start_paused = s->opts->paused || s->was_paused;
    m.plan_only = s->opts->plan;
    m.host = s->start->local_host;
    m.max_downtime_ns = s->opts->max_downtime_ns;
    struct fy_record_header h;
    uint64_t sent = fy_now_ns();
    if (fy_control_send(&s->control, FY_REC_HELLO, &m.base, e) < 0 ||
        fy_control_read(&s->control, FY_REC_HELLO_REPLY, &h, e) < 0)
        return -1;
    s->round_trip_ns = fy_now_ns() - sent;
    Ferry__StreamHelloReply *r = ferry__stream_hello_reply__unpack(NULL, h.length, s->control.buf);
    int rc = -1;
    if (!r)
        fy_fail(e, FY_ECORRUPT, "the target's answer does not parse");
    else if (r->version < FY_STREAM_VERSION_MIN || r->version > FY_STREAM_VERSION_MAX)
        fy_fail(e, FY_EREFUSED, "the target wants stream version %u; this host speaks %d", r->version,
                FY_STREAM_VERSION_MAX);
    else if (!r->channels || r->channels > m.channels || r->ticket.len != FY_TICKET_LEN)
        fy_fail(e, FY_ECORRUPT, "the target's answer names %u channels and a ticket of %zu bytes",
                r->channels, r->ticket.len);
    else
        rc = 0;
    if (rc == 0) {
        s->channels = r->channels;
        s->sealed = r->version >= FY_STREAM_VERSION_SEALED;
        s->codecs = (r->codecs & FY_CODECS_ALL) | FY_CODEC_BIT(FY_CODEC_NONE);
        memcpy(s->ticket, r->ticket.data, FY_TICKET_LEN);
    }
    if (r)
        ferry__stream_hello_reply__free_unpacked(r, NULL);
    return rc;
}

static int verdict(struct fy_source *s, struct fy_err *e)
{
    struct fy_record_header h;
    fy_chan_set_timeout(s->control.chan, VERDICT_TIMEOUT_MS);
    if (fy_control_read(&s->control, FY_REC_VERDICT, &h, e) < 0)
        return -1;
    fy_chan_set_timeout(s->control.chan, 15000);
    Ferry__StreamVerdict *v = ferry__stream_verdict__unpack(NULL, h.length, s->control.buf);
    if (!v)
        return fy_fail(e, FY_ECORRUPT, "the target's verdict does not parse");
    int rc = 0;
    s->report.prealloc_ns = v->prealloc_ns;
    if (v->warning)
        snprintf(s->warning, sizeof s->warning, "%s", v->warning);
    if (!v->accepted) {
        char text[FY_ERR_TEXT] = "";
        size_t n = 0;
        for (size_t i = 0; i < v->n_reasons && n < sizeof text; i++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", i ? "; " : "", v->reasons[i]);
        rc = fy_fail(e, v->code ? (int)v->code : FY_EREFUSED, "%s refuses this guest: %s", s->control.peer,
                     text);
    }
    ferry__stream_verdict__free_unpacked(v, NULL);
    return rc;
}

static int describe(struct fy_source *s, struct fy_err *e)
{
    struct stat st;
    Ferry__StreamDescription m = FERRY__STREAM_DESCRIPTION__INIT;
    m.machine = s->machine;
    m.realtime_ns = fy_realtime_ns();
    if (fstat(s->mem_fd, &st) == 0)
        m.populated_bytes = (uint64_t)st.st_blocks * 512;
    if (fy_control_send(&s->control, FY_REC_DESCRIPTION, &m.base, e) < 0)
        return -1;
    return verdict(s, e);
}

static int read_guest(struct fy_source *s, struct fy_err *e)
{
    Ferry__ControlOut *status;
    if (fy_ctl_status(s->ctl, &status, e) < 0)
        return -1;
    Ferry__GuestState state = status->response->status->state;
    s->was_paused = state == FERRY__GUEST_STATE__GUEST_PAUSED && status->response->status->user_pauses > 0;
    ferry__control_out__free_unpacked(status, NULL);
    if (state != FERRY__GUEST_STATE__GUEST_RUNNING && state != FERRY__GUEST_STATE__GUEST_PAUSED)
        return fy_fail(e, FY_ESTATE, "the guest is neither running nor paused");
    if (fy_ctl_describe(s->ctl, &s->described, e) < 0)
        return -1;
    s->machine = s->described->response->describe->machine;
    uint64_t bytes;
    if (!s->machine)
        return fy_fail(e, FY_ECORRUPT, "ferry-hv gave no description");
    if (fy_ctl_memory(s->ctl, false, &s->mem_fd, &bytes, &s->large_pages, e) < 0)
        return -1;
    s->pages = bytes / 4096;
    s->report.ram_bytes = s->machine->memory_bytes;
    return 0;
}

int fy_source_connect(struct fy_source *s, struct fy_err *e)
{
    int sock = fy_job_take_fd(s->job, 2);
    if (sock < 0)
        return fy_fail(e, FY_EFAIL, "the daemon gave no control socket");
    s->ctl = fy_ctl_new(sock, 30000, e);
    if (!s->ctl || read_guest(s, e) < 0)
        return -1;
    s->tls = fy_job_tls(s->job, false, false, e);
    if (!s->tls)
        return -1;
    struct fy_chan *c = connect_channel(s, 0, true, e);
    if (!c)
        return -1;
    publish(s, &s->control.chan, c);
    snprintf(s->control.peer, sizeof s->control.peer, "%s", fy_chan_peer(c));
    if (hello(s, e) < 0 || describe(s, e) < 0)
        return -1;
    return 0;
}

static int open_data(struct fy_source *s, unsigned i, struct fy_err *e)
{
    struct fy_chan *c = connect_channel(s, i + 1, !s->opts->plaintext, e);
    if (!c)
        return -1;
    publish(s, &s->data[i], c);
    uint8_t proof[32];
    struct fy_flow flow = {0};
    fy_ticket_proof(s->ticket, i + 1, proof);
    return fy_record_send(c, &flow, FY_REC_TICKET, proof, sizeof proof, true, e);
}

struct opening {
    struct fy_source *s;
    unsigned index;
    pthread_t thread;
    bool started;
    int rc;
    struct fy_err err;
};

static void *opening_main(void *arg)
{
    struct opening *o = arg;
    o->rc = open_data(o->s, o->index, &o->err);
    return NULL;
}

/* All data channels at once: a handshake waits for the other side most of the time. The first failure is
 * told; a channel that has been opened stays in s->data either way. */
static int open_channels(struct fy_source *s, struct fy_err *e)
{
    struct opening all[FY_CHANNELS_MAX] = {0};
    int rc = 0;
    for (unsigned i = 0; i < s->channels; i++) {
        all[i].s = s;
        all[i].index = i;
        /* The last one here; so is one that gets no thread. */
        all[i].started =
            i + 1 < s->channels && pthread_create(&all[i].thread, NULL, opening_main, &all[i]) == 0;
        if (!all[i].started)
            opening_main(&all[i]);
    }
    for (unsigned i = 0; i < s->channels; i++) {
        if (all[i].started)
            pthread_join(all[i].thread, NULL);
        if (all[i].rc < 0 && rc == 0) {
            *e = all[i].err;
            rc = -1;
        }
    }
    return rc;
}

static int open_tracker(struct fy_source *s, struct fy_err *e)
{
    uint64_t pages;
    if (fy_ctl_tracker_open(s->ctl, "migrate", true, &s->tracker, &pages, &s->bitmap_fd, e) < 0)
        return -1;
    if (pages != s->pages)
        return fy_fail(e, FY_ECORRUPT, "ferry-hv tracks %llu pages of %llu", (unsigned long long)pages,
                       (unsigned long long)s->pages);
    size_t len = (size_t)((pages + 63) / 64 * 8);
    s->bitmap = mmap(NULL, len, PROT_READ, MAP_SHARED, s->bitmap_fd, 0);
    if (s->bitmap == MAP_FAILED) {
        s->bitmap = NULL;
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot map the dirty bitmap");
    }
    return 0;
}

int fy_source_open(struct fy_source *s, struct fy_err *e)
{
    if (open_channels(s, e) < 0 || open_tracker(s, e) < 0)
        return -1;
    struct fy_pump_config cfg = {.mem_fd = s->mem_fd,
                                 .map = s->large_pages,
                                 .pages = s->pages,
                                 .bitmap = s->bitmap,
                                 .ctl = s->ctl,
                                 .tracker = s->tracker,
                                 .chans = s->data,
                                 .count = s->channels,
                                 .codec = s->codec,
                                 .codecs = s->codecs,
                                 .sealed = s->sealed,
                                 .rate = &s->rate,
                                 .wake_fd = s->wake_fd};
    struct fy_pump *pump = fy_pump_new(&cfg, e);
    if (!pump)
        return -1;
    pthread_mutex_lock(&s->gate_lock);
    s->pump = pump;
    if (s->gate == FY_GATE_CANCELLED)
        fy_pump_stop(pump);
    pthread_mutex_unlock(&s->gate_lock);
    fy_policy_init(&s->policy, s->opts->max_downtime_ns, s->opts->deadline_ns, s->machine->vcpus,
                   s->round_trip_ns, s->start->switch_ns);
    uint64_t path = fy_chan_path_ns(s->control.chan);
    s->policy.calm_ns = path ? path + FY_SOURCE_TURN_NS : 0;
    if (fy_fault_hit(FY_FAULT_SRC_CONNECTED))
        return fy_fail(e, FY_EFAIL, "fault point %d", FY_FAULT_SRC_CONNECTED);
    return 0;
}
