// SPDX-License-Identifier: Apache-2.0
/* vmctl host init invite join list remove */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "hv/base/hex.h"

static void host_line(const Ferry__ApiHost *h)
{
    char hex[65] = "";
    if (h->certificate_sha256.len == 32)
        fy_hex(h->certificate_sha256.data, 32, hex);
    printf("%s at %s, certificate %s\n", h->host, h->address, hex);
}

static void one_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct cli *c = arg;
    if (r->code)
        return;
    if (c->json) {
        struct cli_json j = cli_json_begin(stdout);
        if (r->kind_case == FERRY__API_REPLY__KIND_HOST)
            cli_host_members(&j, r->host);
        else if (r->kind_case == FERRY__API_REPLY__KIND_MESSAGE)
            cli_json_string(&j, "token", r->message->text);
        cli_json_end(&j);
    } else if (r->kind_case == FERRY__API_REPLY__KIND_HOST) {
        host_line(r->host);
    } else if (r->kind_case == FERRY__API_REPLY__KIND_MESSAGE) {
        puts(r->message->text);
    }
}

static int host_init(struct cli *c)
{
    static const struct option longs[] = {{"name", required_argument, NULL, 'n'},
                                          {"address", required_argument, NULL, 'a'},
                                          {NULL, 0, NULL, 0}};
    Ferry__ApiHostInit op = FERRY__API_HOST_INIT__INIT;
    int code = 0, o;
    while ((o = cli_option(c, "n:a:", longs, &code)) != -1) {
        if (o == -2)
            return code;
        if (o == 'n')
            op.host = optarg;
        else
            op.address = optarg;
    }
    if ((code = cli_operands(c, 0, "[--name NAME] [--address HOST:PORT]")) != 0)
        return code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_HOST_INIT;
    req.host_init = &op;
    struct cli_request r = {.req = &req, .on_reply = one_reply, .arg = c};
    return cli_call(c, &r);
}

static int host_invite(struct cli *c)
{
    static const struct option longs[] = {{"address", required_argument, NULL, 'a'}, {NULL, 0, NULL, 0}};
    Ferry__ApiHostInvite op = FERRY__API_HOST_INVITE__INIT;
    int code = 0, o;
    while ((o = cli_option(c, "a:", longs, &code)) != -1) {
        if (o == -2)
            return code;
        op.address = optarg;
    }
    if ((code = cli_operands(c, 0, "[--address HOST:PORT]")) != 0)
        return code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_HOST_INVITE;
    req.host_invite = &op;
    struct cli_request r = {.req = &req, .on_reply = one_reply, .arg = c};
    return cli_call(c, &r);
}

static int host_join(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 1, "TOKEN")) != 0)
        return code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiHostJoin op = FERRY__API_HOST_JOIN__INIT;
    op.token = (char *)(uintptr_t)c->name;
    c->name = NULL; /* a secret: not in messages */
    req.op_case = FERRY__API_REQUEST__OP_HOST_JOIN;
    req.host_join = &op;
    struct cli_request r = {.req = &req, .on_reply = one_reply, .arg = c};
    return cli_call(c, &r);
}

static int host_remove(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 1, "HOST")) != 0)
        return code;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiHostRemove op = FERRY__API_HOST_REMOVE__INIT;
    op.host = (char *)(uintptr_t)c->name;
    req.op_case = FERRY__API_REQUEST__OP_HOST_REMOVE;
    req.host_remove = &op;
    struct cli_request r = {.req = &req};
    return cli_call(c, &r);
}

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
    char hex[65] = "";
    if (r->kind_case != FERRY__API_REPLY__KIND_HOST)
        return;
    const Ferry__ApiHost *h = r->host;
    if (l->c->json) {
        cli_json_object(&l->json, NULL);
        cli_host_members(&l->json, h);
        cli_json_close(&l->json, '}');
        return;
    }
    if (h->certificate_sha256.len == 32)
        fy_hex(h->certificate_sha256.data, 8, hex);
    cli_table_cell(&l->table, "%s%s", h->host, h->self ? " (this host)" : "");
    cli_table_cell(&l->table, "%s", h->address);
    cli_table_cell(&l->table, "%s", hex);
}

static int host_list(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 0, "")) != 0)
        return code;
    struct listing l = {.c = c, .table = {.columns = 3}};
    char *doc = NULL;
    size_t len = 0;
    FILE *mem = open_memstream(&doc, &len);
    if (!mem)
        return cli_fail(c, FY_ERESOURCE, "no memory");
    l.json = cli_json_begin(mem);
    cli_json_array(&l.json, "hosts");
    cli_table_cell(&l.table, "HOST");
    cli_table_cell(&l.table, "ADDRESS");
    cli_table_cell(&l.table, "CERTIFICATE");
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiList op = FERRY__API_LIST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_HOST_LIST;
    req.host_list = &op;
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

int verb_host(struct cli *c)
{
    static const struct cli_verb verbs[] = {
        {"init", host_init, "", ""}, {"invite", host_invite, "", ""}, {"join", host_join, "", ""},
        {"list", host_list, "", ""}, {"remove", host_remove, "", ""}, {NULL, NULL, NULL, NULL},
    };
    c->argc--;
    c->argv++;
    return cli_run_verbs(c, verbs, "host");
}
