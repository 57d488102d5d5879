// SPDX-License-Identifier: Apache-2.0
/* vmctl status show pause unpause stop reset wait dirty-rate */
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "hv/base/hex.h"
#include "hv/define/net.h"

struct listing {
    struct cli *c;
    struct cli_json json;
    struct cli_table table;
    const char *only;
    bool found;
};

static void list_row(struct cli_table *t, const Ferry__ApiGuest *g)
{
    char size[16], resident[16];
    const char *note = *g->moved_to ? g->moved_to : *g->job ? g->job : *g->report ? g->report : g->warning;
    cli_table_cell(t, "%s", g->name);
    cli_table_cell(t, "%s", g->state);
    cli_table_cell(t, g->machine ? "%u" : "-", g->machine ? g->machine->vcpus : 0);
    cli_table_cell(t, "%s", g->machine ? cli_size(g->machine->memory_bytes, size) : "-");
    cli_table_cell(t, "%s", g->pid ? cli_size(g->memory_resident, resident) : "-");
    cli_table_cell(t, g->pid ? "%u" : "-", g->pid);
    cli_table_cell(t, "%s%.60s", *g->moved_to ? "to " : *g->job ? "job " : "", note);
}

static void list_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct listing *l = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_GUEST || (l->only && strcmp(l->only, r->guest->name) != 0))
        return;
    l->found = true;
    if (l->c->json) {
        cli_json_object(&l->json, NULL);
        cli_guest_members(&l->json, r->guest);
        cli_json_close(&l->json, '}');
    } else {
        list_row(&l->table, r->guest);
    }
}

int verb_status(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if (c->argc - optind > 1)
        return cli_operands(c, 1, "[NAME]");
    struct listing l = {.c = c, .only = c->argc > optind ? c->argv[optind] : NULL};
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiList list = FERRY__API_LIST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_STATUS;
    req.status = &list;
    char *doc = NULL;
    size_t len = 0;
    FILE *mem = open_memstream(&doc, &len);
    if (!mem)
        return cli_fail(c, FY_ERESOURCE, "no memory");
    c->name = l.only;
    l.json = cli_json_begin(mem);
    cli_json_array(&l.json, "guests");
    l.table = (struct cli_table){.columns = 7, .numeric = 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5};
    static const char *const heads[] = {"NAME", "STATE", "CPUS", "MEMORY", "RESIDENT", "PID", "NOTE"};
    for (size_t i = 0; i < 7; i++)
        cli_table_cell(&l.table, "%s", heads[i]);
    struct cli_request r = {.req = &req, .on_reply = list_reply, .arg = &l};
    code = cli_call(c, &r);
    cli_json_close(&l.json, ']');
    cli_json_end(&l.json);
    fclose(mem);
    if (code == 0 && l.only && !l.found)
        code = cli_fail(c, FY_ENOTFOUND, "no such guest (`vmctl status` shows them)");
    else if (code == 0 && c->json)
        fputs(doc, stdout);
    else if (code == 0)
        cli_table_print(&l.table, stdout);
    cli_table_free(&l.table);
    free(doc);
    return code;
}

static void show_disk(const Ferry__Disk *k, size_t i)
{
    char size[32], hold[48] = "";
    if (k->hold_s)
        snprintf(hold, sizeof hold, ", waits %u s for its server", k->hold_s);
    printf("disk%-7zu %s: %s, %s, %s%s, cache %s%s\n", i, k->name, k->source, cli_size(k->bytes, size),
           k->format, k->read_only ? ", read-only" : "", k->cache, hold);
}

static void show_nics(const Ferry__ApiGuest *g)
{
    for (size_t i = 0; i < g->machine->n_nics; i++) {
        char mac[18], spec[1024], in[16], out[16];
        const Ferry__NicStatus *n = g->pid && i < g->n_nics ? g->nics[i] : NULL;
        fy_mac_format(g->machine->nics[i], mac);
        fy_nic_format(g->machine->nics[i], spec, sizeof spec);
        printf("net%-2zu       %s  %s", i, mac, spec);
        if (n)
            printf(", link %s, received %s (%llu frames lost), sent %s (%llu lost)", n->link ? "up" : "down",
                   cli_size(n->rx_bytes, in), (unsigned long long)n->rx_dropped, cli_size(n->tx_bytes, out),
                   (unsigned long long)n->tx_dropped);
        putchar('\n');
    }
}

static void show_text(const Ferry__ApiGuest *g)
{
    char a[24], b[24], size[16], resident[16], uuid[FY_UUID_TEXT] = "";
    const Ferry__Machine *m = g->machine;
    if (g->uuid.len == FY_UUID_LEN)
        fy_uuid_format(g->uuid.data, uuid);
    printf("name        %s\nuuid        %s\nstate       %s\n", g->name, uuid, g->state);
    if (g->pid)
        printf("process     %u\n", g->pid);
    if (m) {
        printf("vcpus       %u (%s%s%s)\n", m->vcpus, m->cpu ? m->cpu->model : "?",
               *g->engine ? ", engine " : "", g->engine);
        printf("memory      %s%s%s, %s resident\n", cli_size(m->memory_bytes, size),
               m->hugepages ? ", 2 MiB pages" : "", m->prealloc ? ", touched at start" : "",
               cli_size(g->memory_resident, resident));
        for (size_t i = 0; i < m->n_disks; i++)
            show_disk(m->disks[i], i);
        if (m->images)
            printf("boot        kernel %s, initrd %s, kept with the guest beside its memory\n",
                   cli_size(m->images->kernel_bytes, size), cli_size(m->images->initrd_bytes, resident));
        if (*m->cmdline)
            printf("cmdline     %s\n", m->cmdline);
        show_nics(g);
    }
    if (*g->isolation)
        printf("isolation   %s\n", g->isolation);
    if (g->pid)
        printf("has run     %s, %s of CPU time\n", cli_time(g->running_ns, a), cli_time(g->vcpu_cpu_ns, b));
    if (g->exit_status >= 0)
        printf("exit status %d\n", g->exit_status);
    if (*g->job)
        printf("job         %s\n", g->job);
    if (*g->moved_to)
        printf("moved to    %s\n", g->moved_to);
    if (*g->report)
        printf("report      %s\n", g->report);
    if (g->defined)
        printf("defined     autostart %s, restart %s\n", g->autostart ? "yes" : "no", g->restart);
    if (*g->warning)
        printf("warning     %s\n", g->warning);
}

static void show_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct cli *c = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_GUEST || r->code)
        return;
    if (c->json) {
        struct cli_json j = cli_json_begin(stdout);
        cli_guest_members(&j, r->guest);
        cli_json_end(&j);
    } else {
        show_text(r->guest);
    }
}

static int name_only(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code ? code : -1;
    return cli_operands(c, 1, "NAME");
}

void cli_done_json(struct cli *c, const char *done)
{
    if (!c->json)
        return;
    struct cli_json j = cli_json_begin(stdout);
    cli_json_string(&j, "name", c->name);
    cli_json_string(&j, "done", done);
    cli_json_end(&j);
}

int verb_show(struct cli *c)
{
    int code = name_only(c);
    if (code)
        return code < 0 ? 0 : code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiName name = FERRY__API_NAME__INIT;
    name.name = (char *)(uintptr_t)c->name;
    req.op_case = FERRY__API_REQUEST__OP_SHOW;
    req.show = &name;
    struct cli_request r = {.req = &req, .on_reply = show_reply, .arg = c};
    return cli_call(c, &r);
}

static int plain(struct cli *c, Ferry__ApiRequest__OpCase op, const char *done)
{
    int code = name_only(c);
    if (code)
        return code < 0 ? 0 : code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiName name = FERRY__API_NAME__INIT;
    name.name = (char *)(uintptr_t)c->name;
    req.op_case = op;
    req.pause = &name; /* pause, unpause and reset hold the same message */
    struct cli_request r = {.req = &req};
    code = cli_call(c, &r);
    if (code == 0)
        cli_done_json(c, done);
    return code;
}

int verb_pause(struct cli *c)
{
    return plain(c, FERRY__API_REQUEST__OP_PAUSE, "pause");
}

int verb_unpause(struct cli *c)
{
    return plain(c, FERRY__API_REQUEST__OP_UNPAUSE, "unpause");
}

int verb_reset(struct cli *c)
{
    return plain(c, FERRY__API_REQUEST__OP_RESET, "reset");
}

int verb_stop(struct cli *c)
{
    static const struct option longs[] = {
        {"force", no_argument, NULL, 'f'}, {"wait", no_argument, NULL, 'w'}, {NULL, 0, NULL, 0}};
    Ferry__ApiStop op = FERRY__API_STOP__INIT;
    int code = 0, o;
    while ((o = cli_option(c, "fw", longs, &code)) != -1) {
        if (o == -2)
            return code;
        op.force |= o == 'f';
        op.wait |= o == 'w';
    }
    if ((code = cli_operands(c, 1, "NAME [-f] [-w]")) != 0)
        return code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    op.name = (char *)(uintptr_t)c->name;
    req.op_case = FERRY__API_REQUEST__OP_STOP;
    req.stop = &op;
    struct cli_request r = {.req = &req};
    code = cli_call(c, &r);
    if (code == 0)
        cli_done_json(c, "stop");
    return code;
}

static void wait_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct cli *c = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_EXIT)
        return;
    const Ferry__ApiExit *x = r->exit;
    if (c->json) {
        struct cli_json j = cli_json_begin(stdout);
        cli_json_string(&j, "name", c->name);
        cli_json_string(&j, "state", x->state);
        if (x->exit_status >= 0)
            cli_json_i64(&j, "exit_status", x->exit_status);
        else
            cli_json_null(&j, "exit_status");
        cli_json_string(&j, "report", x->report);
        cli_json_end(&j);
    } else if (x->exit_status >= 0) {
        printf("%d\n", x->exit_status);
    } else {
        printf("%s\n", x->state);
    }
}

int verb_wait(struct cli *c)
{
    int code = name_only(c);
    if (code)
        return code < 0 ? 0 : code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiWait op = FERRY__API_WAIT__INIT;
    op.name = (char *)(uintptr_t)c->name;
    req.op_case = FERRY__API_REQUEST__OP_WAIT;
    req.wait = &op;
    struct cli_request r = {.req = &req, .on_reply = wait_reply, .arg = c};
    return cli_call(c, &r);
}

static void rate_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct cli *c = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_RATE)
        return;
    const Ferry__ApiRate *a = r->rate;
    if (!c->json) {
        printf("%.1f MiB/s\n", (double)a->bytes_per_s / 1048576);
        for (size_t i = 0; i < a->n_vcpu_bytes_per_s; i++)
            printf("  vcpu%zu %.1f MiB/s\n", i, (double)a->vcpu_bytes_per_s[i] / 1048576);
        return;
    }
    struct cli_json j = cli_json_begin(stdout);
    cli_json_string(&j, "name", c->name);
    cli_json_u64(&j, "bytes_per_s", a->bytes_per_s);
    cli_json_double(&j, "mib_per_s", (double)a->bytes_per_s / 1048576, 3);
    cli_json_array(&j, "vcpu_bytes_per_s");
    for (size_t i = 0; i < a->n_vcpu_bytes_per_s; i++)
        cli_json_u64(&j, NULL, a->vcpu_bytes_per_s[i]);
    cli_json_close(&j, ']');
    cli_json_ms(&j, "interval_ms", a->interval_ns);
    cli_json_end(&j);
}

int verb_dirty_rate(struct cli *c)
{
    static const struct option longs[] = {{"interval", required_argument, NULL, 'i'}, {NULL, 0, NULL, 0}};
    Ferry__ApiDirtyRate op = FERRY__API_DIRTY_RATE__INIT;
    int code = 0, o;
    while ((o = cli_option(c, "i:", longs, &code)) != -1) {
        if (o == -2)
            return code;
        if (cli_parse_time(optarg, &op.interval_ns) < 0)
            return cli_fail(c, FY_EUSAGE, "--interval %s is no time (write it like 500ms or 2s)", optarg);
    }
    if ((code = cli_operands(c, 1, "NAME [--interval T]")) != 0)
        return code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    op.name = (char *)(uintptr_t)c->name;
    req.op_case = FERRY__API_REQUEST__OP_DIRTY_RATE;
    req.dirty_rate = &op;
    struct cli_request r = {.req = &req, .on_reply = rate_reply, .arg = c};
    return cli_call(c, &r);
}
