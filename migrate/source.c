// SPDX-License-Identifier: Apache-2.0
#include "migrate/source.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "migrate/run.h"

#define DEFAULT_DOWNTIME_NS 50000000ull

/* --- the gate
 * ------------------------------------------------------------------------------------------------ */

/* On the job's reading thread. */
static void on_cancel(void *arg, const char *why)
{
    struct fy_source *s = arg;
    pthread_mutex_lock(&s->gate_lock);
    if (s->gate == FY_GATE_OPEN) {
        s->gate = FY_GATE_CANCELLED;
        fy_fail(&s->cancel_err, FY_ECANCELLED, "%s", why);
        if (s->pump)
            fy_pump_stop(s->pump);
        fy_rate_stop(&s->rate);
        uint64_t one = 1;
        ssize_t ignored = write(s->wake_fd, &one, sizeof one);
        (void)ignored;
        if (s->control.chan)
            fy_chan_abort(s->control.chan);
        for (unsigned i = 0; i < FY_CHANNELS_MAX; i++)
            if (s->data[i])
                fy_chan_abort(s->data[i]);
    }
    pthread_mutex_unlock(&s->gate_lock);
}

static void on_gone(void *arg)
{
    on_cancel(arg, "ferryd ended; the guest runs on here");
}

static void on_set(void *arg, const Ferry__SetJob *set)
{
    struct fy_source *s = arg;
    if (set->has_max_bandwidth)
        fy_rate_set(&s->rate, set->max_bandwidth);
    if (set->has_max_downtime && set->max_downtime_ns)
        atomic_store(&s->asked_downtime_ns, set->max_downtime_ns);
}

int fy_source_commit_gate(struct fy_source *s, struct fy_err *e)
{
    pthread_mutex_lock(&s->gate_lock);
    bool won = s->gate == FY_GATE_OPEN;
    if (won)
        s->gate = FY_GATE_COMMITTED;
    else
        *e = s->cancel_err;
    pthread_mutex_unlock(&s->gate_lock);
    return won ? 0 : -1;
}

/* --- plan
 * ---------------------------------------------------------------------------------------------------- */

#define PLAN_SAMPLE_MS 500
#define PLAN_REST_NS 3e6
#define PLAN_REST_THROUGHPUT 1.5 /* bytes a ns */

/* Forecast without moving anything: what the guest dirties in half a second against a cautious throughput. */
static int plan(struct fy_source *s, struct fy_err *e)
{
    uint64_t pages;
    uint64_t a;
    uint64_t b;
    /* The greeting's round trip had a process start in it: go by the path's. */
    uint64_t path = fy_chan_path_ns(s->control.chan);
    if (path)
        s->round_trip_ns = FY_MIN(s->round_trip_ns, path + FY_SOURCE_TURN_NS);
    fy_policy_init(&s->policy, s->opts->max_downtime_ns, 0, s->machine->vcpus, s->round_trip_ns,
                   s->start->switch_ns);
    if (fy_ctl_tracker_open(s->ctl, "plan", false, &s->tracker, &pages, &s->bitmap_fd, e) < 0 ||
        fy_ctl_tracker_count(s->ctl, s->tracker, true, &a, e) < 0)
        return -1;
    uint64_t start = fy_now_ns();
    /* A cancel ends the sample early. */
    struct pollfd wake = {.fd = s->wake_fd, .events = POLLIN};
    while (poll(&wake, 1, PLAN_SAMPLE_MS) < 0 && errno == EINTR)
        continue;
    if (fy_ctl_tracker_count(s->ctl, s->tracker, true, &b, e) < 0)
        return -1;
    double ns = (double)(fy_now_ns() - start);
    s->policy.dirty_rate = (double)(b > a ? b - a : 0) * 4096.0 / ns;
    s->report.dirty_rate = (uint64_t)(s->policy.dirty_rate * 1e9);
    s->report.forecast_total_ns = fy_policy_remaining_ns(&s->policy, s->report.ram_bytes);
    /* What is left at the switch is what three milliseconds dirty, and it goes faster than a full memory's
     * pages, of which most are cold. */
    double rest = s->policy.dirty_rate * PLAN_REST_NS;
    s->report.forecast_downtime_ns = s->policy.fixed_ns + (uint64_t)(rest / PLAN_REST_THROUGHPUT);
    s->report.state = (char *)(uintptr_t) "planned";
    return 0;
}

/* --- the job
 * ------------------------------------------------------------------------------------------------- */

static int prepare(struct fy_source *s, struct fy_err *e)
{
    static Ferry__MigrateOptions defaults = FERRY__MIGRATE_OPTIONS__INIT;
    s->opts = s->start->options ? s->start->options : &defaults;
    defaults.max_downtime_ns = DEFAULT_DOWNTIME_NS;
    if (!s->opts->max_downtime_ns)
        s->start->options->max_downtime_ns = DEFAULT_DOWNTIME_NS;
    if (fy_codec_parse(s->opts->codec, s->opts->has_codec_level, s->opts->codec_level, &s->codec, e) < 0)
        return -1;
    if (s->opts->deadline_ns && strcmp(s->opts->on_miss, "cancel") != 0 &&
        strcmp(s->opts->on_miss, "pause") != 0 && strcmp(s->opts->on_miss, "force") != 0 && *s->opts->on_miss)
        return fy_fail(e, FY_EUSAGE, "--on-miss is cancel, pause or force, not \"%s\"", s->opts->on_miss);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "no descriptor for the job");
    return fy_control_init(&s->control, e);
}

static int run(struct fy_source *s, struct fy_err *e)
{
    fy_source_progress(s, "connect", true);
    if (fy_source_connect(s, e) < 0)
        return -1;
    s->report.setup_ns = fy_now_ns() - s->began_ns;
    if (s->opts->plan)
        return plan(s, e);
    if (fy_source_open(s, e) < 0)
        return -1;
    s->report.setup_ns = fy_now_ns() - s->began_ns;
    if (fy_source_rounds(s, e) < 0)
        return -1;
    return fy_source_switch(s, e);
}

/* End the pump's threads; what they use (channels, ferry-hv's control socket) may go after this. */
static void end_pump(struct fy_source *s)
{
    pthread_mutex_lock(&s->gate_lock);
    struct fy_pump *pump = s->pump;
    s->pump = NULL;
    for (unsigned i = 0; i < FY_CHANNELS_MAX; i++)
        if (s->data[i])
            fy_chan_abort(s->data[i]);
    pthread_mutex_unlock(&s->gate_lock);
    fy_rate_stop(&s->rate);
    if (!pump)
        return;
    fy_pump_stop(pump);
    fy_pump_totals(pump, &s->totals);
    fy_pump_free(pump);
}

static void fill_report(struct fy_source *s)
{
    Ferry__JobReport *r = &s->report;
    struct fy_pump_totals t = s->totals;
    r->total_ns = fy_now_ns() - s->began_ns;
    r->rounds = (uint32_t)s->round;
    r->pages_zero = t.pages_zero;
    r->pages_skipped = t.pages_skipped;
    r->pages_raw = t.pages_raw;
    r->pages_lz4 = t.pages_lz4;
    r->pages_zstd = t.pages_zstd;
    r->moved_bytes = (t.pages_zero + t.pages_raw + t.pages_lz4 + t.pages_zstd) * 4096;
    r->wire_bytes = t.wire_bytes + (s->control.chan ? fy_chan_wire_bytes(s->control.chan) : 0);
    r->channels = s->channels;
    r->tls = !s->opts->plaintext;
    r->cpu_ns = fy_process_cpu_ns();
    r->peer_host = s->control.peer;
    r->warning = s->warning;
    const char *name = t.pages_lz4 >= t.pages_zstd ? (t.pages_lz4 ? "lz4" : "none") : "zstd";
    snprintf(s->codec_name, sizeof s->codec_name, "%s", name);
    r->codec = s->codec_name;
}

static void release(struct fy_source *s)
{
    /* The job's reading thread may still bring a cancel: it finds the channels gone. */
    pthread_mutex_lock(&s->gate_lock);
    fy_control_release(&s->control);
    for (unsigned i = 0; i < FY_CHANNELS_MAX; i++) {
        fy_chan_free(s->data[i]);
        s->data[i] = NULL;
    }
    pthread_mutex_unlock(&s->gate_lock);
    fy_tls_free(s->tls);
    if (s->bitmap)
        munmap(s->bitmap, (size_t)((s->pages + 63) / 64 * 8));
    fy_close(&s->bitmap_fd);
    fy_close(&s->mem_fd);
    fy_close(&s->wake_fd);
    if (s->described)
        ferry__control_out__free_unpacked(s->described, NULL);
}

int fy_run_send(struct fy_job *job, uint64_t began_ns)
{
    static struct fy_source source;
    struct fy_source *s = &source;
    struct fy_err e = {0};
    s->job = job;
    s->start = fy_job_start(job);
    s->began_ns = began_ns;
    s->mem_fd = s->bitmap_fd = s->wake_fd = -1;
    ferry__job_report__init(&s->report);
    pthread_mutex_init(&s->gate_lock, NULL);
    fy_rate_init(&s->rate, s->start->options ? s->start->options->max_bandwidth : 0);
    struct fy_job_events events = {.arg = s, .cancel = on_cancel, .set = on_set, .gone = on_gone};
    int rc = prepare(s, &e);
    if (rc == 0)
        rc = fy_job_run(job, &events, &e);
    if (rc == 0)
        rc = run(s, &e);
    pthread_mutex_lock(&s->gate_lock);
    if (rc < 0 && s->gate == FY_GATE_CANCELLED)
        e = s->cancel_err;
    bool open = s->gate == FY_GATE_OPEN;
    pthread_mutex_unlock(&s->gate_lock);
    /* After a cancel the channels are closed; after the latch nothing more may be said. */
    if (rc < 0 && open)
        fy_control_send_error(&s->control, &e);
    end_pump(s);
    /* Give the guest its leases back before anyone hears of the failure. */
    if (rc < 0 && e.code != FY_EUNCERTAIN)
        fy_ctl_free(s->ctl);
    else if (s->ctl && rc < 0)
        fy_warn("%s", e.text);
    if (s->opts)
        fill_report(s);
    fy_job_report(job, &s->report, rc < 0 ? &e : NULL);
    release(s);
    return rc < 0 ? e.code : 0;
}
