// SPDX-License-Identifier: Apache-2.0
/* The daemon's objects as JSON members and for people. Names of members are stable (vmctl(1), "JSON"). */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "hv/base/hex.h"
#include "hv/define/net.h"

static void uuid_member(struct cli_json *j, const char *key, const ProtobufCBinaryData *id)
{
    char text[FY_UUID_TEXT];
    if (id->len != FY_UUID_LEN)
        return;
    fy_uuid_format(id->data, text);
    cli_json_string(j, key, text);
}

static void nic_members(struct cli_json *j, const Ferry__ApiGuest *g)
{
    const Ferry__Machine *m = g->machine;
    cli_json_array(j, "nics");
    for (size_t i = 0; i < m->n_nics; i++) {
        char mac[18], id[16], spec[1024];
        snprintf(id, sizeof id, "net%u", (unsigned)i);
        fy_mac_format(m->nics[i], mac);
        fy_nic_format(m->nics[i], spec, sizeof spec);
        cli_json_object(j, NULL);
        cli_json_string(j, "id", id);
        cli_json_string(j, "network", spec);
        cli_json_string(j, "mac", mac);
        if (g->pid && i < g->n_nics) {
            const Ferry__NicStatus *n = g->nics[i];
            cli_json_bool(j, "link", n->link);
            cli_json_u64(j, "rate", n->rate);
            cli_json_u64(j, "rx_frames", n->rx_frames);
            cli_json_u64(j, "rx_bytes", n->rx_bytes);
            cli_json_u64(j, "rx_dropped", n->rx_dropped);
            cli_json_u64(j, "tx_frames", n->tx_frames);
            cli_json_u64(j, "tx_bytes", n->tx_bytes);
            cli_json_u64(j, "tx_dropped", n->tx_dropped);
        }
        cli_json_close(j, '}');
    }
    cli_json_close(j, ']');
}

static void disk_members(struct cli_json *j, const Ferry__Disk *k)
{
    cli_json_object(j, NULL);
    cli_json_string(j, "name", k->name);
    cli_json_string(j, "source", k->source);
    cli_json_string(j, "format", k->format);
    cli_json_u64(j, "bytes", k->bytes);
    cli_json_bool(j, "read_only", k->read_only);
    cli_json_string(j, "cache", k->cache);
    cli_json_u64(j, "queues", k->queues);
    if (k->hold_s)
        cli_json_u64(j, "hold_s", k->hold_s);
    cli_json_close(j, '}');
}

void cli_guest_members(struct cli_json *j, const Ferry__ApiGuest *g)
{
    const Ferry__Machine *m = g->machine;
    cli_json_string(j, "name", g->name);
    uuid_member(j, "uuid", &g->uuid);
    uuid_member(j, "run_id", &g->run_id);
    cli_json_string(j, "state", g->state);
    if (g->pid)
        cli_json_u64(j, "pid", g->pid);
    if (*g->engine)
        cli_json_string(j, "engine", g->engine);
    if (g->limits) {
        const Ferry__Limits *l = g->limits;
        cli_json_object(j, "limits");
        cli_json_u64(j, "cpu_weight", l->cpu_weight);
        cli_json_u64(j, "cpu_cap_percent", l->cpu_cap);
        cli_json_string(j, "cpus", l->cpus);
        cli_json_u64(j, "io_weight", l->io_weight);
        cli_json_u64(j, "memory_limit_bytes", l->memory_limit);
        cli_json_close(j, '}');
    }
    if (*g->isolation)
        cli_json_string(j, "isolation", g->isolation);
    if (m) {
        cli_json_u64(j, "memory_bytes", m->memory_bytes);
        cli_json_u64(j, "vcpus", m->vcpus);
        cli_json_string(j, "cpu_model", m->cpu ? m->cpu->model : "");
        cli_json_u64(j, "machine_revision", m->revision);
        cli_json_bool(j, "hugepages", m->hugepages);
        cli_json_bool(j, "prealloc", m->prealloc);
        cli_json_bool(j, "debug_exit", m->debug_exit);
        cli_json_u64(j, "dirty_ring", m->dirty_ring);
        cli_json_string(j, "cmdline", m->cmdline);
        cli_json_u64(j, "boot_image_bytes",
                     m->images ? m->images->kernel_bytes + m->images->initrd_bytes : 0);
        if (m->n_nics)
            nic_members(j, g);
        cli_json_array(j, "disks");
        for (size_t i = 0; i < m->n_disks; i++)
            disk_members(j, m->disks[i]);
        cli_json_close(j, ']');
    }
    cli_json_u64(j, "memory_resident", g->memory_resident);
    cli_json_ms(j, "running_ms", g->running_ns);
    cli_json_ms(j, "vcpu_cpu_ms", g->vcpu_cpu_ns);
    if (g->exit_status >= 0)
        cli_json_i64(j, "exit_status", g->exit_status);
    else
        cli_json_null(j, "exit_status");
    if (*g->report)
        cli_json_string(j, "report", g->report);
    if (*g->job)
        cli_json_string(j, "job", g->job);
    if (*g->moved_to)
        cli_json_string(j, "moved_to", g->moved_to);
    if (*g->warning)
        cli_json_string(j, "warning", g->warning);
    cli_json_bool(j, "defined", g->defined);
    if (g->defined) {
        cli_json_bool(j, "autostart", g->autostart);
        cli_json_string(j, "restart", g->restart);
    }
}

void cli_host_members(struct cli_json *j, const Ferry__ApiHost *h)
{
    char hex[65] = "";
    if (h->certificate_sha256.len == 32)
        fy_hex(h->certificate_sha256.data, 32, hex);
    cli_json_string(j, "host", h->host);
    cli_json_string(j, "address", h->address);
    cli_json_string(j, "certificate_sha256", hex);
    cli_json_bool(j, "self", h->self);
}

void cli_progress_members(struct cli_json *j, const Ferry__JobProgress *p)
{
    cli_json_string(j, "phase", p->phase);
    cli_json_u64(j, "round", p->round);
    cli_json_double(j, "fraction", p->fraction, 4);
    cli_json_u64(j, "total_bytes", p->total_bytes);
    cli_json_u64(j, "remaining_bytes", p->remaining_bytes);
    cli_json_u64(j, "sent_bytes", p->sent_bytes);
    cli_json_u64(j, "wire_bytes", p->wire_bytes);
    cli_json_u64(j, "dirty_rate", p->dirty_rate);
    cli_json_u64(j, "throughput", p->throughput);
    cli_json_ms(j, "expected_end_ms", p->expected_end_ns);
    cli_json_ms(j, "expected_downtime_ms", p->expected_downtime_ns);
}

void cli_report_members(struct cli_json *j, const Ferry__JobReport *r)
{
    cli_json_ms(j, "total_ms", r->total_ns);
    cli_json_ms(j, "downtime_ms", r->downtime_ns);
    cli_json_ms(j, "setup_ms", r->setup_ns);
    cli_json_ms(j, "prealloc_ms", r->prealloc_ns);
    cli_json_ms(j, "pause_ms", r->pause_ns);
    cli_json_ms(j, "last_pages_ms", r->last_pages_ns);
    cli_json_ms(j, "state_ms", r->state_ns);
    cli_json_ms(j, "load_ms", r->load_ns);
    cli_json_ms(j, "resume_ms", r->resume_ns);
    cli_json_ms(j, "forecast_downtime_ms", r->forecast_downtime_ns);
    cli_json_ms(j, "forecast_total_ms", r->forecast_total_ns);
    cli_json_u64(j, "rounds", r->rounds);
    cli_json_u64(j, "ram_bytes", r->ram_bytes);
    cli_json_u64(j, "moved_bytes", r->moved_bytes);
    cli_json_u64(j, "wire_bytes", r->wire_bytes);
    cli_json_u64(j, "last_round_bytes", r->last_round_bytes);
    cli_json_u64(j, "pages_zero", r->pages_zero);
    cli_json_u64(j, "pages_skipped", r->pages_skipped);
    cli_json_u64(j, "pages_raw", r->pages_raw);
    cli_json_u64(j, "pages_lz4", r->pages_lz4);
    cli_json_u64(j, "pages_zstd", r->pages_zstd);
    cli_json_u64(j, "throughput",
                 r->total_ns ? (uint64_t)((double)r->moved_bytes * 1e9 / (double)r->total_ns) : 0);
    cli_json_u64(j, "dirty_rate", r->dirty_rate);
    cli_json_u64(j, "channels", r->channels);
    cli_json_string(j, "codec", r->codec);
    cli_json_bool(j, "tls", r->tls);
    cli_json_bool(j, "verified", r->verified);
    cli_json_ms(j, "cpu_ms", r->cpu_ns);
    if (*r->warning)
        cli_json_string(j, "warning", r->warning);
    if (r->code) {
        cli_json_u64(j, "code", r->code);
        cli_json_string(j, "error", r->error);
    }
}

void cli_job_members(struct cli_json *j, const Ferry__ApiJobInfo *job)
{
    cli_json_string(j, "job", job->id);
    cli_json_string(j, "guest", job->guest);
    cli_json_string(j, "kind", job->kind);
    cli_json_string(j, "host", job->peer);
    cli_json_string(j, "state", job->state);
    cli_json_double(j, "started", (double)job->started_realtime_ns / 1e9, 3);
    if (job->report)
        cli_report_members(j, job->report);
    else if (job->progress)
        cli_progress_members(j, job->progress);
}

static void line(const char *name, const char *value)
{
    printf("  %-14s %s\n", name, value);
}

void cli_print_report(const Ferry__ApiJobInfo *job)
{
    const Ferry__JobReport *r = job->report;
    char a[24], b[24], text[256];
    char s1[16], s2[16], s3[16];
    printf("%s: %s", job->guest, job->state);
    if (!r) {
        putchar('\n');
        return;
    }
    bool planned = !strcmp(job->state, "planned");
    if (planned)
        printf(" (nothing was moved)\n");
    else if (r->total_ns && !r->code)
        printf(" to %s in %s, silent for %s\n", job->peer, cli_time(r->total_ns, a),
               cli_time(r->downtime_ns, b));
    else
        putchar('\n');
    if (planned || r->forecast_downtime_ns) {
        bool total = r->forecast_total_ns != 0;
        snprintf(text, sizeof text, "%s%s%s silent", total ? cli_time(r->forecast_total_ns, a) : "",
                 total ? " in all, " : "", cli_time(r->forecast_downtime_ns, b));
        line("forecast", text);
    }
    if (r->downtime_ns && !planned) {
        char p[24], l[24], t[24], o[24], u[24];
        snprintf(text, sizeof text, "pause %s, last pages %s, state %s, load %s, resume %s",
                 cli_time(r->pause_ns, p), cli_time(r->last_pages_ns, l), cli_time(r->state_ns, t),
                 cli_time(r->load_ns, o), cli_time(r->resume_ns, u));
        line("downtime", text);
    }
    if (planned) {
        snprintf(text, sizeof text, "%s of guest memory, %s/s dirtied", cli_size(r->ram_bytes, s1),
                 cli_size(r->dirty_rate, s2));
        line("memory", text);
    } else if (r->ram_bytes) {
        snprintf(text, sizeof text, "%s of guest memory, %s moved in %u round%s, %s on the wire",
                 cli_size(r->ram_bytes, s1), cli_size(r->moved_bytes, s2), r->rounds,
                 r->rounds == 1 ? "" : "s", cli_size(r->wire_bytes, s3));
        line("memory", text);
        snprintf(text, sizeof text, "%llu never touched, %llu zero, %llu raw, %llu lz4, %llu zstd",
                 (unsigned long long)r->pages_skipped, (unsigned long long)r->pages_zero,
                 (unsigned long long)r->pages_raw, (unsigned long long)r->pages_lz4,
                 (unsigned long long)r->pages_zstd);
        line("pages", text);
        snprintf(text, sizeof text, "%u channel%s, %s, compression %s%s", r->channels,
                 r->channels == 1 ? "" : "s", r->tls ? "TLS 1.3" : "plaintext", *r->codec ? r->codec : "none",
                 r->verified ? ", verified" : "");
        line("link", text);
        snprintf(text, sizeof text, "setup %s, prealloc %s, CPU %s", cli_time(r->setup_ns, a),
                 cli_time(r->prealloc_ns, b), cli_time(r->cpu_ns, (char[24]){0}));
        line("besides", text);
    }
    if (*r->warning)
        line("warning", r->warning);
}
