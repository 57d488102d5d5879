// SPDX-License-Identifier: Apache-2.0
/* vmctl set NAME --cpu-cap 150% ...: shares of the host, while the guest runs. */
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/limit.h"

enum { OPT_WEIGHT = 400, OPT_CAP, OPT_CPUS, OPT_IO, OPT_LIMIT, OPT_MEMORY };

const struct option cli_limit_options[] = {
    {"cpu-weight", required_argument, NULL, OPT_WEIGHT},
    {"cpu-cap", required_argument, NULL, OPT_CAP},
    {"cpus", required_argument, NULL, OPT_CPUS},
    {"io-weight", required_argument, NULL, OPT_IO},
    {"memory-limit", required_argument, NULL, OPT_LIMIT},
    {"memory", required_argument, NULL, OPT_MEMORY},
    {NULL, 0, NULL, 0},
};

static bool is_off(const char *text)
{
    return !strcmp(text, "none") || !strcmp(text, "max");
}

static int number(struct cli *c, const char *option, uint64_t most, uint32_t *out)
{
    char text[24];
    uint64_t v = 0;
    size_t n = strlen(optarg);
    snprintf(text, sizeof text, "%s", optarg);
    if (n && n < sizeof text && text[n - 1] == '%')
        text[n - 1] = 0;
    if (!is_off(optarg) && (n >= sizeof text || cli_parse_number(text, 1, most, &v) < 0))
        return cli_fail(c, FY_EUSAGE, "%s %s: 1 to %llu, or none", option, optarg, (unsigned long long)most);
    *out = (uint32_t)v;
    return 0;
}

static int size(struct cli *c, const char *option, uint64_t *out)
{
    *out = 0;
    if (!is_off(optarg) && (cli_parse_size(optarg, out) < 0 || !*out))
        return cli_fail(c, FY_EUSAGE, "%s %s is no size (write it like 512M or 2G, or none)", option, optarg);
    return 0;
}

int cli_limit_option(struct cli *c, struct cli_limit *l, int o)
{
    l->op.limits = &l->limits;
    switch (o) {
    case OPT_WEIGHT:
        l->op.which |= 1;
        return number(c, "--cpu-weight", 10000, &l->limits.cpu_weight);
    case OPT_CAP:
        l->op.which |= 2;
        return number(c, "--cpu-cap", 102400, &l->limits.cpu_cap);
    case OPT_CPUS:
        l->op.which |= 4;
        l->limits.cpus = is_off(optarg) ? (char *)(uintptr_t) "" : optarg;
        return 0;
    case OPT_IO:
        l->op.which |= 8;
        return number(c, "--io-weight", 10000, &l->limits.io_weight);
    case OPT_LIMIT:
        l->op.which |= 16;
        return size(c, "--memory-limit", &l->limits.memory_limit);
    default:
        l->op.set_memory = true;
        return size(c, "--memory", &l->op.memory);
    }
}

static void on_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    const struct cli *c = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_GUEST || r->code || !c->json)
        return;
    struct cli_json j = cli_json_begin(stdout);
    cli_guest_members(&j, r->guest);
    cli_json_end(&j);
}

int cli_limit_send(struct cli *c, struct cli_limit *l)
{
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    l->op.name = (char *)(uintptr_t)c->name;
    req.op_case = FERRY__API_REQUEST__OP_LIMIT;
    req.limit = &l->op;
    struct cli_request r = {.req = &req, .on_reply = on_reply, .arg = c};
    return cli_call(c, &r);
}
