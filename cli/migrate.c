// SPDX-License-Identifier: Apache-2.0
/* vmctl migrate */
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "cli/progress.h"

enum {
    OPT_DOWNTIME = 256,
    OPT_DEADLINE,
    OPT_MISS,
    OPT_CHANNELS,
    OPT_COMPRESS,
    OPT_BANDWIDTH,
    OPT_PLAINTEXT,
    OPT_VERIFY,
    OPT_PAUSED,
    OPT_DETACH,
    OPT_PLAN
};

static const struct option longs[] = {
    {"plan", no_argument, NULL, OPT_PLAN},
    {"max-downtime", required_argument, NULL, OPT_DOWNTIME},
    {"deadline", required_argument, NULL, OPT_DEADLINE},
    {"on-miss", required_argument, NULL, OPT_MISS},
    {"channels", required_argument, NULL, OPT_CHANNELS},
    {"compress", required_argument, NULL, OPT_COMPRESS},
    {"max-bandwidth", required_argument, NULL, OPT_BANDWIDTH},
    {"plaintext", no_argument, NULL, OPT_PLAINTEXT},
    {"verify", no_argument, NULL, OPT_VERIFY},
    {"paused", no_argument, NULL, OPT_PAUSED},
    {"detach", no_argument, NULL, OPT_DETACH},
    {NULL, 0, NULL, 0},
};

struct move {
    struct cli *c;
    Ferry__MigrateOptions opt;
    char codec[8];
    bool detach;
    bool cancelled;
    char job[40];
    struct cli_progress progress;
};

static int link_option(struct cli *c, struct move *m, int o)
{
    uint64_t v;
    int level = 0, has_level = 0;
    switch (o) {
    case OPT_CHANNELS:
        if (!strcmp(optarg, "auto"))
            m->opt.channels = 0;
        else if (cli_parse_number(optarg, 1, 16, &v) < 0)
            return cli_fail(c, FY_EUSAGE, "--channels %s: auto, or 1 to 16", optarg);
        else
            m->opt.channels = (uint32_t)v;
        return 0;
    case OPT_COMPRESS:
        if (cli_parse_codec(optarg, m->codec, &level, &has_level) < 0)
            return cli_fail(c, FY_EUSAGE, "--compress %s: auto, none, lz4 or zstd[:LEVEL]", optarg);
        m->opt.codec = m->codec;
        m->opt.codec_level = level;
        m->opt.has_codec_level = has_level;
        return 0;
    default:
        if (cli_parse_size(optarg, &m->opt.max_bandwidth) < 0)
            return cli_fail(c, FY_EUSAGE, "--max-bandwidth %s: bytes a second (write it like 100M)", optarg);
        return 0;
    }
}

static int option(struct cli *c, struct move *m, int o)
{
    switch (o) {
    case OPT_PLAN:
        m->opt.plan = true;
        break;
    case OPT_DOWNTIME:
        if (cli_parse_time(optarg, &m->opt.max_downtime_ns) < 0 || m->opt.max_downtime_ns == 0)
            return cli_fail(c, FY_EUSAGE, "--max-downtime %s is no time (write it like 50ms)", optarg);
        break;
    case OPT_DEADLINE:
        if (cli_parse_time(optarg, &m->opt.deadline_ns) < 0 || m->opt.deadline_ns == 0)
            return cli_fail(c, FY_EUSAGE, "--deadline %s is no time (write it like 30s or 5m)", optarg);
        break;
    case OPT_MISS:
        if (strcmp(optarg, "cancel") != 0 && strcmp(optarg, "pause") != 0 && strcmp(optarg, "force") != 0)
            return cli_fail(c, FY_EUSAGE, "--on-miss %s: cancel, pause or force", optarg);
        m->opt.on_miss = optarg;
        break;
    case OPT_PLAINTEXT:
        m->opt.plaintext = true;
        break;
    case OPT_VERIFY:
        m->opt.verify = true;
        break;
    case OPT_PAUSED:
        m->opt.paused = true;
        break;
    case OPT_DETACH:
        m->detach = true;
        break;
    default:
        return link_option(c, m, o);
    }
    return 0;
}

static void json_line(const Ferry__ApiJobInfo *job)
{
    struct cli_json j = cli_json_begin(stdout);
    cli_job_members(&j, job);
    cli_json_end(&j);
}

static void on_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct move *m = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_JOB)
        return;
    const Ferry__ApiJobInfo *job = r->job;
    snprintf(m->job, sizeof m->job, "%s", job->id);
    if (m->c->json) {
        json_line(job);
    } else if (m->detach) {
        printf("%s\n", job->id);
    } else if (r->last || r->code) {
        cli_progress_end(&m->progress);
        if (!r->code)
            cli_print_report(job);
    } else if (job->progress) {
        cli_progress_show(&m->progress, job);
    }
}

/* ^C: have the daemon cancel and wait for what becomes of it. */
static void on_interrupt(void *arg)
{
    struct move *m = arg;
    struct cli c = *m->c;
    cli_progress_end(&m->progress);
    if (!*m->job) {
        fputs("vmctl: the move has not begun yet; press ^C again in a moment\n", stderr);
        return;
    }
    fputs(m->cancelled
              ? "vmctl: still waiting for the end (the move goes on or is taken back; both are safe)\n"
              : "vmctl: cancelling the move; waiting for its end\n",
          stderr);
    m->cancelled = true;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiJob op = FERRY__API_JOB__INIT;
    op.id = m->job;
    req.op_case = FERRY__API_REQUEST__OP_JOB_CANCEL;
    req.job_cancel = &op;
    struct cli_request r = {.req = &req};
    cli_call(&c, &r);
}

int verb_migrate(struct cli *c)
{
    struct move m = {.c = c, .opt = FERRY__MIGRATE_OPTIONS__INIT};
    int code = 0, o;
    while ((o = cli_option(c, "", longs, &code)) != -1) {
        if (o == -2)
            return code;
        if ((code = option(c, &m, o)) != 0)
            return code;
    }
    if ((code = cli_operands(c, 2, "NAME HOST [options]")) != 0)
        return code;
    if (*m.opt.on_miss && !m.opt.deadline_ns)
        return cli_fail(c, FY_EUSAGE, "--on-miss needs a --deadline to miss");
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiMigrate op = FERRY__API_MIGRATE__INIT;
    op.name = (char *)(uintptr_t)c->name;
    op.host = c->argv[optind + 1];
    op.options = &m.opt;
    op.detach = m.detach;
    req.op_case = FERRY__API_REQUEST__OP_MIGRATE;
    req.migrate = &op;
    struct cli_request r = {
        .req = &req, .on_reply = on_reply, .arg = &m, .on_interrupt = m.detach ? NULL : on_interrupt};
    code = cli_call(c, &r);
    if (code && c->json && !*m.job) {
        /* Refused before there was a job: the last line still says how it ended. */
        struct cli_json j = cli_json_begin(stdout);
        cli_json_string(&j, "guest", c->name);
        cli_json_string(&j, "host", op.host);
        cli_json_string(&j, "state", "failed");
        cli_json_u64(&j, "code", (uint64_t)code);
        cli_json_string(&j, "error", fy_code_name(code));
        cli_json_end(&j);
    }
    return code;
}
