// SPDX-License-Identifier: Apache-2.0
/* vmctl doctor version watch __complete */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

struct checks {
    struct cli *c;
    struct cli_json json;
    struct cli_table table;
};

static void check_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct checks *k = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_CHECK)
        return;
    if (!k->c->json) {
        cli_table_cell(&k->table, "%s", r->check->name);
        cli_table_cell(&k->table, "%s", r->check->verdict);
        cli_table_cell(&k->table, "%s", r->check->detail);
        return;
    }
    cli_json_object(&k->json, NULL);
    cli_json_string(&k->json, "name", r->check->name);
    cli_json_string(&k->json, "verdict", r->check->verdict);
    cli_json_string(&k->json, "detail", r->check->detail);
    cli_json_close(&k->json, '}');
}

int verb_doctor(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 0, "")) != 0)
        return code;
    struct checks k = {.c = c, .table = {.columns = 3}};
    char *doc = NULL;
    size_t len = 0;
    FILE *mem = open_memstream(&doc, &len);
    if (!mem)
        return cli_fail(c, FY_ERESOURCE, "no memory");
    k.json = cli_json_begin(mem);
    cli_json_array(&k.json, "checks");
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiList op = FERRY__API_LIST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_DOCTOR;
    req.doctor = &op;
    struct cli_request r = {.req = &req, .on_reply = check_reply, .arg = &k};
    code = cli_call(c, &r);
    cli_json_close(&k.json, ']');
    cli_json_end(&k.json);
    fclose(mem);
    if (code == 0 && c->json)
        fputs(doc, stdout);
    else if (code == 0)
        cli_table_print(&k.table, stdout);
    cli_table_free(&k.table);
    free(doc);
    return code;
}

static void version_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    if (r->kind_case == FERRY__API_REPLY__KIND_MESSAGE)
        snprintf(arg, 64, "%s", r->message->text);
}

int verb_version(struct cli *c)
{
    char daemon[64] = "";
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 0, "")) != 0)
        return code;
    if (!c->json) {
        puts("vmctl " FERRY_VERSION);
        fflush(stdout);
    }
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiList op = FERRY__API_LIST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_VERSION;
    req.version = &op;
    struct cli_request r = {.req = &req, .on_reply = version_reply, .arg = daemon};
    code = cli_call(c, &r);
    if (c->json) {
        struct cli_json j = cli_json_begin(stdout);
        cli_json_string(&j, "vmctl", FERRY_VERSION);
        if (*daemon)
            cli_json_string(&j, "ferryd", daemon);
        else
            cli_json_null(&j, "ferryd");
        cli_json_end(&j);
    } else if (*daemon) {
        printf("ferryd %s\n", daemon);
    }
    return code;
}

static void watch_json(const Ferry__ApiReply *r)
{
    struct cli_json j = cli_json_begin(stdout);
    cli_json_u64(&j, "revision", r->revision);
    cli_json_bool(&j, "removed", r->removed);
    switch (r->kind_case) {
    case FERRY__API_REPLY__KIND_GUEST:
        cli_json_object(&j, "guest");
        cli_guest_members(&j, r->guest);
        cli_json_close(&j, '}');
        break;
    case FERRY__API_REPLY__KIND_JOB:
        cli_json_object(&j, "job");
        cli_job_members(&j, r->job);
        cli_json_close(&j, '}');
        break;
    case FERRY__API_REPLY__KIND_HOST:
        cli_json_object(&j, "host");
        cli_host_members(&j, r->host);
        cli_json_close(&j, '}');
        break;
    default:
        break;
    }
    cli_json_end(&j);
}

static void watch_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct cli *c = arg;
    const char *gone = r->removed ? " (removed)" : "";
    if (c->json) {
        watch_json(r);
        return;
    }
    if (r->kind_case == FERRY__API_REPLY__KIND_GUEST)
        printf("guest %s %s%s\n", r->guest->name, r->guest->state, gone);
    else if (r->kind_case == FERRY__API_REPLY__KIND_JOB)
        printf("job %.8s %s %s %s %.0f%%%s\n", r->job->id, r->job->guest, r->job->peer, r->job->state,
               r->job->report     ? 100.0
               : r->job->progress ? r->job->progress->fraction * 100
                                  : 0.0,
               gone);
    else if (r->kind_case == FERRY__API_REPLY__KIND_HOST)
        printf("host %s %s%s\n", r->host->host, r->host->address, gone);
    fflush(stdout);
}

int verb_watch(struct cli *c)
{
    static const struct option longs[] = {{"after", required_argument, NULL, 'a'}, {NULL, 0, NULL, 0}};
    Ferry__ApiWatch op = FERRY__API_WATCH__INIT;
    int code = 0, o;
    while ((o = cli_option(c, "", longs, &code)) != -1) {
        char *end;
        if (o == -2)
            return code;
        op.after_revision = strtoull(optarg, &end, 10);
        if (*end || end == optarg)
            return cli_fail(c, FY_EUSAGE, "--after %s is no revision number", optarg);
    }
    if ((code = cli_operands(c, 0, "[--after REVISION]")) != 0)
        return code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_WATCH;
    req.watch = &op;
    struct cli_request r = {.req = &req, .on_reply = watch_reply, .arg = c};
    return cli_call(c, &r);
}

static void complete_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)arg;
    (void)fds;
    (void)nfds;
    if (r->kind_case == FERRY__API_REPLY__KIND_GUEST)
        puts(r->guest->name);
    else if (r->kind_case == FERRY__API_REPLY__KIND_JOB)
        printf("%.8s\n", r->job->id);
    else if (r->kind_case == FERRY__API_REPLY__KIND_HOST && !r->host->self)
        puts(r->host->host);
}

/* Words for the shell's completion: verbs, guests, hosts or jobs, one a line; never a message. */
int verb_complete(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    const char *what = c->argc > optind ? c->argv[optind] : "verbs";
    if (!strcmp(what, "verbs")) {
        for (const struct cli_verb *v = cli_verbs; v->name; v++)
            if (v->name[0] != '_')
                puts(v->name);
        return 0;
    }
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiList op = FERRY__API_LIST__INIT;
    req.op_case = !strcmp(what, "hosts")  ? FERRY__API_REQUEST__OP_HOST_LIST
                  : !strcmp(what, "jobs") ? FERRY__API_REQUEST__OP_JOB_LIST
                                          : FERRY__API_REQUEST__OP_STATUS;
    req.status = &op;
    if (!freopen("/dev/null", "w", stderr))
        return FY_EFAIL;
    struct cli_request r = {.req = &req, .on_reply = complete_reply};
    return cli_call(c, &r);
}
