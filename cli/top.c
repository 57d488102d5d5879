// SPDX-License-Identifier: Apache-2.0
/* vmctl top: what guests use, from two readings of their counters. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "hv/base/io.h"

#define GUESTS_MAX 1024

struct reading {
    char name[64], state[16];
    unsigned vcpus;
    uint64_t taken_ns, cpu_ns, vcpu_ns, steal_ns;
    uint64_t memory, resident, balloon, reported;
    uint64_t disk_requests, disk_read, disk_written, net_in, net_out;
    bool dirty_known;
    uint64_t dirty; /* bytes a second in the interval before */
};

struct survey {
    struct reading *guests;
    size_t count, room;
    bool failed;
};

static const struct option longs[] = {
    {"interval", required_argument, NULL, 'i'},
    {"count", required_argument, NULL, 'n'},
    {"dirty", no_argument, NULL, 'd'},
    {NULL, 0, NULL, 0},
};

static void add_device(struct reading *g, const Ferry__DeviceStats *d)
{
    if (!strcmp(d->type, "virtio-blk")) {
        g->disk_requests += d->requests;
        g->disk_read += d->to_guest;
        g->disk_written += d->from_guest;
    } else if (!strcmp(d->type, "virtio-net")) {
        g->net_in += d->to_guest;
        g->net_out += d->from_guest;
    }
}

static void on_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct survey *s = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_STATS || r->code || s->count == GUESTS_MAX)
        return;
    if (s->count == s->room) {
        size_t room = s->room ? 2 * s->room : 16;
        struct reading *grown = realloc(s->guests, room * sizeof *grown);
        if (!grown) {
            s->failed = true;
            return;
        }
        s->guests = grown;
        s->room = room;
    }
    struct reading *g = &s->guests[s->count++];
    *g = (struct reading){.vcpus = r->stats->vcpus,
                          .taken_ns = r->stats->taken_ns,
                          .cpu_ns = r->stats->cpu_ns,
                          .vcpu_ns = r->stats->vcpu_ns,
                          .steal_ns = r->stats->steal_ns,
                          .memory = r->stats->memory_bytes,
                          .resident = r->stats->memory_resident,
                          .balloon = r->stats->balloon,
                          .reported = r->stats->reported};
    snprintf(g->name, sizeof g->name, "%s", r->stats->name);
    snprintf(g->state, sizeof g->state, "%s", r->stats->state);
    for (size_t i = 0; i < r->stats->n_devices; i++)
        add_device(g, r->stats->devices[i]);
}

static int take(struct cli *c, struct survey *s)
{
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiList list = FERRY__API_LIST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_STATS;
    req.stats = &list;
    s->count = 0;
    struct cli_request r = {.req = &req, .on_reply = on_reply, .arg = s};
    int code = cli_call(c, &r);
    return code == 0 && s->failed ? cli_fail(c, FY_ERESOURCE, "no memory") : code;
}

static const struct reading *find(const struct survey *s, const char *name)
{
    for (size_t i = 0; i < s->count; i++)
        if (!strcmp(s->guests[i].name, name))
            return &s->guests[i];
    return NULL;
}

static void on_rate(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct reading *g = arg;
    if (r->kind_case == FERRY__API_REPLY__KIND_RATE && !r->code) {
        g->dirty_known = true;
        g->dirty = r->rate->bytes_per_s;
    }
}

/* The interval over which each running guest's writes are logged, all at once; into *s. A guest that ends or
 * moves meanwhile has no rate. */
static int log_dirty(struct cli *c, struct survey *s, uint64_t interval_ns)
{
    int *socks = calloc(s->count + 1, sizeof *socks);
    int code = socks ? 0 : cli_fail(c, FY_ERESOURCE, "no memory");
    for (size_t i = 0; socks && i < s->count; i++) {
        Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
        Ferry__ApiDirtyRate op = FERRY__API_DIRTY_RATE__INIT;
        op.name = s->guests[i].name;
        op.interval_ns = interval_ns;
        req.op_case = FERRY__API_REQUEST__OP_DIRTY_RATE;
        req.dirty_rate = &op;
        s->guests[i].dirty_known = false;
        socks[i] = -1;
        if (code == 0 && !strcmp(s->guests[i].state, "running"))
            code = cli_send(c, &(struct cli_request){.req = &req}, &socks[i]);
    }
    for (size_t i = 0; socks && i < s->count; i++)
        if (socks[i] >= 0) {
            cli_receive(c, socks[i],
                        &(struct cli_request){.on_reply = on_rate, .arg = &s->guests[i], .quiet = true});
            fy_close(&socks[i]);
        }
    free(socks);
    return code;
}

static void carry_rates(struct survey *now, const struct survey *was)
{
    for (size_t i = 0; i < now->count; i++) {
        const struct reading *g = find(was, now->guests[i].name);
        now->guests[i].dirty_known = g && g->dirty_known;
        now->guests[i].dirty = g ? g->dirty : 0;
    }
}

/* Units a second; 0 where a counter began anew (the guest was started again or came back). */
static double rate(uint64_t now, uint64_t was, uint64_t ns)
{
    return now < was || !ns ? 0 : (double)(now - was) * 1e9 / (double)ns;
}

static const char *size_of(double bytes, char *out)
{
    return cli_size((uint64_t)bytes, out);
}

struct use {
    double cpu, vcpu, steal; /* per cent of a core */
    double disk_requests, disk_read, disk_written, net_in, net_out;
};

static struct use use_of(const struct reading *now, const struct reading *was)
{
    uint64_t ns = now->taken_ns - was->taken_ns;
    return (struct use){
        .cpu = rate(now->cpu_ns, was->cpu_ns, ns) / 1e7,
        .vcpu = rate(now->vcpu_ns, was->vcpu_ns, ns) / 1e7,
        .steal = rate(now->steal_ns, was->steal_ns, ns) / 1e7,
        .disk_requests = rate(now->disk_requests, was->disk_requests, ns),
        .disk_read = rate(now->disk_read, was->disk_read, ns),
        .disk_written = rate(now->disk_written, was->disk_written, ns),
        .net_in = rate(now->net_in, was->net_in, ns),
        .net_out = rate(now->net_out, was->net_out, ns),
    };
}

static void print_json(struct cli_json *j, const struct reading *g, const struct use *u)
{
    cli_json_object(j, NULL);
    cli_json_string(j, "name", g->name);
    cli_json_string(j, "state", g->state);
    cli_json_u64(j, "vcpus", g->vcpus);
    cli_json_double(j, "cpu_percent", u->cpu, 1);
    cli_json_double(j, "vcpu_percent", u->vcpu, 1);
    cli_json_double(j, "steal_percent", u->steal, 1);
    cli_json_u64(j, "memory_bytes", g->memory);
    cli_json_u64(j, "memory_resident", g->resident);
    cli_json_u64(j, "balloon_bytes", g->balloon);
    cli_json_u64(j, "reported_bytes", g->reported);
    cli_json_double(j, "disk_requests_per_s", u->disk_requests, 1);
    cli_json_double(j, "disk_read_bytes_per_s", u->disk_read, 0);
    cli_json_double(j, "disk_written_bytes_per_s", u->disk_written, 0);
    cli_json_double(j, "net_in_bytes_per_s", u->net_in, 0);
    cli_json_double(j, "net_out_bytes_per_s", u->net_out, 0);
    if (g->dirty_known)
        cli_json_u64(j, "dirty_bytes_per_s", g->dirty);
    cli_json_close(j, '}');
}

static void table_row(struct cli_table *t, const struct reading *g, const struct use *u, bool dirty)
{
    char a[16], b[16], d[16];
    cli_table_cell(t, "%s", g->name);
    cli_table_cell(t, "%s", g->state);
    cli_table_cell(t, "%.1f", u->cpu);
    cli_table_cell(t, "%.1f", u->steal);
    cli_table_cell(t, "%s", cli_size(g->memory, a));
    cli_table_cell(t, "%s", cli_size(g->resident, a));
    cli_table_cell(t, "%s", cli_size(g->balloon, b));
    cli_table_cell(t, "%s", cli_size(g->reported, d));
    cli_table_cell(t, "%.0f", u->disk_requests);
    cli_table_cell(t, "%s", size_of(u->disk_read, a));
    cli_table_cell(t, "%s", size_of(u->disk_written, b));
    cli_table_cell(t, "%s", size_of(u->net_in, a));
    cli_table_cell(t, "%s", size_of(u->net_out, b));
    if (dirty)
        cli_table_cell(t, "%s", g->dirty_known ? cli_size(g->dirty, a) : "-");
}

static int print(const struct cli *c, const struct survey *now, const struct survey *was, bool screen,
                 bool dirty)
{
    static const char *const heads[] = {"NAME",     "STATE",    "CPU%",     "STEAL%",   "MEMORY",
                                        "RESIDENT", "BALLOON",  "RETURNED", "DISK/S",   "READ/S",
                                        "WRITE/S",  "NET IN/S", "OUT/S",    "DIRTIED/S"};
    struct cli_json j = {0};
    unsigned columns = dirty ? 14 : 13;
    struct cli_table t = {.columns = columns, .numeric = 0x3ffc};
    if (c->json) {
        j = cli_json_begin(stdout);
        cli_json_array(&j, "guests");
    }
    for (size_t i = 0; i < columns; i++)
        cli_table_cell(&t, "%s", heads[i]);
    for (size_t i = 0; i < now->count; i++) {
        const struct reading *before = find(was, now->guests[i].name);
        struct use u = use_of(&now->guests[i], before ? before : &now->guests[i]);
        if (c->json)
            print_json(&j, &now->guests[i], &u);
        else
            table_row(&t, &now->guests[i], &u, dirty);
    }
    if (c->json) {
        cli_json_close(&j, ']');
        cli_json_end(&j);
    } else {
        if (screen)
            fputs("\033[H\033[J", stdout);
        cli_table_print(&t, stdout);
    }
    cli_table_free(&t);
    fflush(stdout);
    return 0;
}

static void wait_ns(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (nanosleep(&ts, &ts) < 0)
        continue;
}

int verb_top(struct cli *c)
{
    uint64_t interval = 1000000000ull, count = 0;
    int code = 0, o;
    bool screen = !c->json && isatty(STDOUT_FILENO), dirty = false;
    while ((o = cli_option(c, "i:n:", longs, &code)) != -1) {
        if (o == -2)
            return code;
        dirty |= o == 'd';
        if (o == 'i' && (cli_parse_time(optarg, &interval) < 0 || interval < 100000000ull))
            return cli_fail(c, FY_EUSAGE, "--interval %s: a time of 100ms or more", optarg);
        if (o == 'n' && cli_parse_number(optarg, 1, 1000000, &count) < 0)
            return cli_fail(c, FY_EUSAGE, "--count %s: how many readings to print", optarg);
    }
    if ((code = cli_operands(c, 0, "[--interval T] [--count N] [--dirty]")) != 0)
        return code;
    /* Without a terminal there is nobody to end it. */
    if (!count && !screen && !c->json)
        count = 1;
    struct survey a = {0}, b = {0};
    code = take(c, &a);
    for (uint64_t n = 0; code == 0 && (!count || n < count); n++) {
        if (dirty && a.count)
            code = log_dirty(c, &a, interval);
        else
            wait_ns(interval);
        if (code == 0)
            code = take(c, &b);
        if (code == 0) {
            carry_rates(&b, &a);
            code = print(c, &b, &a, screen, dirty);
        }
        struct survey old = a;
        a = b;
        b = old;
    }
    free(a.guests);
    free(b.guests);
    return code;
}
