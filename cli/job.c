// SPDX-License-Identifier: Apache-2.0
/* vmctl job list show wait cancel set resolve */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "cli/progress.h"

struct listing {
    struct cli *c;
    struct cli_json json;
    struct cli_table table;
};

static void list_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct listing *l = arg;
    char a[24];
    if (r->kind_case != FERRY__API_REPLY__KIND_JOB)
        return;
    const Ferry__ApiJobInfo *j = r->job;
    if (l->c->json) {
        cli_json_object(&l->json, NULL);
        cli_job_members(&l->json, j);
        cli_json_close(&l->json, '}');
        return;
    }
    cli_table_cell(&l->table, "%.8s", j->id);
    cli_table_cell(&l->table, "%s", j->guest);
    cli_table_cell(&l->table, "%s", !strcmp(j->kind, "send") ? "to" : "from");
    cli_table_cell(&l->table, "%s", j->peer);
    cli_table_cell(&l->table, "%s", j->state);
    if (j->report)
        cli_table_cell(&l->table, "%s",
                       j->report->code ? j->report->error : cli_time(j->report->total_ns, a));
    else if (j->progress)
        cli_table_cell(&l->table, "%.0f%% %s", j->progress->fraction * 100, j->progress->phase);
    else
        cli_table_cell(&l->table, "%s", "");
}

static int job_list(struct cli *c)
{
    static const char *const heads[] = {"JOB", "GUEST", "", "HOST", "STATE", "NOTE"};
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 0, "")) != 0)
        return code;
    struct listing l = {.c = c, .table = {.columns = 6}};
    char *doc = NULL;
    size_t len = 0;
    FILE *mem = open_memstream(&doc, &len);
    if (!mem)
        return cli_fail(c, FY_ERESOURCE, "no memory");
    l.json = cli_json_begin(mem);
    cli_json_array(&l.json, "jobs");
    for (size_t i = 0; i < 6; i++)
        cli_table_cell(&l.table, "%s", heads[i]);
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiList op = FERRY__API_LIST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_JOB_LIST;
    req.job_list = &op;
    struct cli_request r = {.req = &req, .on_reply = list_reply, .arg = &l};
    code = cli_call(c, &r);
    cli_json_close(&l.json, ']');
    cli_json_end(&l.json);
    fclose(mem);
    if (code == 0 && c->json)
        fputs(doc, stdout);
    else if (code == 0)
        cli_table_print(&l.table, stdout);
    cli_table_free(&l.table);
    free(doc);
    return code;
}

struct one {
    struct cli *c;
    struct cli_progress progress;
    bool stream;
    char guest[64];
    char peer[64];
    char state[16];
};

static void one_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct one *o = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_JOB)
        return;
    snprintf(o->guest, sizeof o->guest, "%s", r->job->guest);
    snprintf(o->peer, sizeof o->peer, "%s", r->job->peer);
    snprintf(o->state, sizeof o->state, "%s", r->job->state);
    if (!o->c)
        return;
    if (o->c->json) {
        struct cli_json j = cli_json_begin(stdout);
        cli_job_members(&j, r->job);
        cli_json_end(&j);
    } else if (o->stream && !r->last) {
        if (r->job->progress)
            cli_progress_show(&o->progress, r->job);
    } else {
        cli_progress_end(&o->progress);
        printf("job %s: ", r->job->id);
        cli_print_report(r->job);
        if (!r->code && r->job->report && r->job->report->code)
            printf("  %-14s %s\n", "error", r->job->report->error);
        else if (!r->job->report && r->job->progress) {
            char text[256];
            cli_progress_text(&o->progress, r->job->progress, text, sizeof text);
            printf("  %s\n", text);
        }
    }
}

static int id_op(struct cli *c, Ferry__ApiRequest__OpCase op, bool stream)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 1, "ID")) != 0)
        return code;
    struct one o = {.c = c, .stream = stream};
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiJob job = FERRY__API_JOB__INIT;
    job.id = (char *)(uintptr_t)c->name;
    req.op_case = op;
    req.job_show = &job; /* show, wait and cancel hold the same message */
    struct cli_request r = {.req = &req, .on_reply = one_reply, .arg = &o};
    code = cli_call(c, &r);
    cli_progress_end(&o.progress);
    return code;
}

static int job_show(struct cli *c)
{
    return id_op(c, FERRY__API_REQUEST__OP_JOB_SHOW, false);
}

static int job_wait(struct cli *c)
{
    return id_op(c, FERRY__API_REQUEST__OP_JOB_WAIT, true);
}

static int job_cancel(struct cli *c)
{
    return id_op(c, FERRY__API_REQUEST__OP_JOB_CANCEL, false);
}

static int job_set(struct cli *c)
{
    static const struct option longs[] = {{"max-bandwidth", required_argument, NULL, 'b'},
                                          {"max-downtime", required_argument, NULL, 'd'},
                                          {NULL, 0, NULL, 0}};
    Ferry__SetJob set = FERRY__SET_JOB__INIT;
    int code = 0, o;
    while ((o = cli_option(c, "", longs, &code)) != -1) {
        if (o == -2)
            return code;
        if (o == 'b' && cli_parse_size(optarg, &set.max_bandwidth) < 0)
            return cli_fail(c, FY_EUSAGE,
                            "--max-bandwidth %s: bytes a second, 0 for no cap (write it like 100M)", optarg);
        if (o == 'd' && (cli_parse_time(optarg, &set.max_downtime_ns) < 0 || !set.max_downtime_ns))
            return cli_fail(c, FY_EUSAGE, "--max-downtime %s is no time (write it like 50ms)", optarg);
        set.has_max_bandwidth |= o == 'b';
        set.has_max_downtime |= o == 'd';
    }
    if ((code = cli_operands(c, 1, "ID [--max-bandwidth R] [--max-downtime T]")) != 0)
        return code;
    if (!set.has_max_bandwidth && !set.has_max_downtime)
        return cli_fail(c, FY_EUSAGE, "nothing to set (--max-bandwidth R or --max-downtime T)");
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiJobSet op = FERRY__API_JOB_SET__INIT;
    op.id = (char *)(uintptr_t)c->name;
    op.set = &set;
    req.op_case = FERRY__API_REQUEST__OP_JOB_SET;
    req.job_set = &op;
    struct cli_request r = {.req = &req};
    return cli_call(c, &r);
}

/* The operator says where the guest runs, against what the programs could find out: have it typed out. */
static int confirm(struct cli *c, bool here)
{
    struct one o = {0};
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiJob job = FERRY__API_JOB__INIT;
    char typed[128];
    job.id = (char *)(uintptr_t)c->name;
    req.op_case = FERRY__API_REQUEST__OP_JOB_SHOW;
    req.job_show = &job;
    struct cli_request r = {.req = &req, .on_reply = one_reply, .arg = &o};
    int code = cli_call(c, &r);
    if (code)
        return code;
    if (strcmp(o.state, "uncertain") != 0)
        return cli_fail(c, FY_ESTATE, "the job is %s, not uncertain: there is nothing to resolve", o.state);
    fprintf(stderr,
            here ? "Be sure that %s does NOT run on %s: %s will run here. If it runs there too, both write "
                   "and its data "
                   "is lost.\n"
                 : "Be sure that %s runs on %s: %s will end here. If it does not run there, it is lost.\n",
            o.guest, o.peer, o.guest);
    fprintf(stderr, "Type the guest's name to go on: ");
    fflush(stderr);
    if (!fgets(typed, sizeof typed, stdin))
        typed[0] = 0;
    typed[strcspn(typed, "\r\n")] = 0;
    if (strcmp(typed, o.guest) != 0)
        return cli_fail(c, FY_ECANCELLED,
                        "not confirmed, nothing was done (the name must be typed as it is)");
    return 0;
}

static int job_resolve(struct cli *c)
{
    static const struct option longs[] = {
        {"run-here", no_argument, NULL, 'r'}, {"gone", no_argument, NULL, 'g'}, {NULL, 0, NULL, 0}};
    bool here = false, gone = false;
    int code = 0, o;
    while ((o = cli_option(c, "", longs, &code)) != -1) {
        if (o == -2)
            return code;
        here |= o == 'r';
        gone |= o == 'g';
    }
    if ((code = cli_operands(c, 1, "ID --run-here|--gone")) != 0)
        return code;
    if (here == gone)
        return cli_fail(c, FY_EUSAGE,
                        "say which: --run-here (it does not run there) or --gone (it runs there)");
    if ((code = confirm(c, here)) != 0)
        return code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiJobResolve op = FERRY__API_JOB_RESOLVE__INIT;
    op.id = (char *)(uintptr_t)c->name;
    op.run_here = here;
    req.op_case = FERRY__API_REQUEST__OP_JOB_RESOLVE;
    req.job_resolve = &op;
    struct one one = {.c = c};
    struct cli_request r = {.req = &req, .on_reply = one_reply, .arg = &one};
    return cli_call(c, &r);
}

int verb_job(struct cli *c)
{
    static const struct cli_verb verbs[] = {
        {"list", job_list, "", ""},     {"show", job_show, "", ""}, {"wait", job_wait, "", ""},
        {"cancel", job_cancel, "", ""}, {"set", job_set, "", ""},   {"resolve", job_resolve, "", ""},
        {NULL, NULL, NULL, NULL},
    };
    c->argc--;
    c->argv++;
    return cli_run_verbs(c, verbs, "job");
}
