// SPDX-License-Identifier: Apache-2.0
/* vmctl create set delete export */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/limit.h"
#include "hv/base/io.h"
#include "hv/define/define.h"

enum { OPT_REPLACE = 512, OPT_AUTOSTART, OPT_RESTART };

static const struct option own_options[] = {{"file", required_argument, NULL, 'f'},
                                            {"replace", no_argument, NULL, OPT_REPLACE},
                                            {"autostart", no_argument, NULL, OPT_AUTOSTART},
                                            {"restart", required_argument, NULL, OPT_RESTART},
                                            {NULL, 0, NULL, 0}};

struct create {
    struct cli_start s;
    const char *file, *restart;
    bool replace, autostart;
    bool any; /* an option of `start` was given */
    struct fy_def def;
};

static int told(const struct cli *c, const struct fy_err *e)
{
    return cli_fail(c, e->code, "%s", e->text);
}

static int put(const struct cli *c, struct fy_def *def, const char *key, const char *text)
{
    struct fy_err e;
    return fy_def_put(def, fy_def_find(key), text, &e) < 0 ? told(c, &e) : 0;
}

/* One field of the request into the definition, where it is set. */
static int take_field(const struct cli *c, struct fy_def *def, const char *key,
                      const ProtobufCFieldDescriptor *f, const char *member)
{
    char text[24];
    uint64_t n = 0;
    if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
        bool list = f->label == PROTOBUF_C_LABEL_REPEATED;
        size_t given; /* how many, or the pointer to it */
        memcpy(&given, list ? member - f->offset + f->quantifier_offset : member, sizeof given);
        if (!given || !strcmp(key, "disks") || !strcmp(key, "nets")) /* these are taken as they were given */
            return 0;
        return cli_fail(c, FY_EUNSUPPORTED, "%s cannot be kept in a definition", key);
    }
    if (f->label == PROTOBUF_C_LABEL_REPEATED && f->type == PROTOBUF_C_TYPE_STRING) {
        size_t count;
        char **items;
        int code = 0;
        memcpy(&count, member - f->offset + f->quantifier_offset, sizeof count);
        memcpy(&items, member, sizeof items);
        for (size_t i = 0; i < count && code == 0; i++)
            code = put(c, def, key, items[i]);
        return code;
    }
    if (f->type == PROTOBUF_C_TYPE_STRING) {
        const char *value;
        memcpy(&value, member, sizeof value);
        return value && *value ? put(c, def, key, value) : 0;
    }
    if (f->type == PROTOBUF_C_TYPE_BOOL) {
        protobuf_c_boolean b;
        memcpy(&b, member, sizeof b);
        return b ? put(c, def, key, "yes") : 0;
    }
    if (f->type == PROTOBUF_C_TYPE_UINT32) {
        uint32_t v;
        memcpy(&v, member, sizeof v);
        n = v;
    } else if (f->type == PROTOBUF_C_TYPE_UINT64) {
        memcpy(&n, member, sizeof n);
    }
    snprintf(text, sizeof text, "%llu", (unsigned long long)n);
    return n ? put(c, def, key, text) : 0;
}

static int from_options(const struct cli *c, struct create *cr)
{
    size_t count;
    const struct fy_def_key *k = fy_def_keys(&count);
    int code = 0;
    for (size_t i = 0; i < count && code == 0; i++) {
        const ProtobufCFieldDescriptor *f =
            k[i].field
                ? protobuf_c_message_descriptor_get_field_by_name(&ferry__api_start__descriptor, k[i].field)
                : NULL;
        if (f)
            code = take_field(c, &cr->def, k[i].name, f, (const char *)&cr->s.op + f->offset);
    }
    for (size_t i = 0; i < cr->s.op.n_disks && code == 0; i++)
        code = put(c, &cr->def, "disks", cr->s.disk_args[i]);
    for (size_t i = 0; i < cr->s.op.n_nics && code == 0; i++)
        code = put(c, &cr->def, "nets", cr->s.nic_args[i]);
    if (code == 0 && cr->s.kernel)
        code = put(c, &cr->def, "kernel", cr->s.kernel);
    if (code == 0 && cr->s.initrd)
        code = put(c, &cr->def, "initrd", cr->s.initrd);
    if (code == 0 && cr->autostart)
        code = put(c, &cr->def, "autostart", "yes");
    if (code == 0 && cr->restart)
        code = put(c, &cr->def, "restart", cr->restart);
    return code;
}

/* Standard input, or a pipe, has no size to go by. */
static int read_stream(FILE *f, char **text, size_t *len)
{
    *text = malloc(FY_DEF_TEXT_MAX + 2);
    *len = *text ? fread(*text, 1, FY_DEF_TEXT_MAX + 1, f) : 0;
    return *text && !ferror(f) ? 0 : -1;
}

static int from_file(const struct cli *c, struct create *cr)
{
    char *text = NULL, folder[PATH_MAX];
    size_t len = 0;
    struct fy_err e;
    bool is_stdin = !strcmp(cr->file, "-");
    FILE *f = is_stdin ? stdin : fopen(cr->file, "re");
    if (!f)
        return cli_fail(c, FY_EUSAGE, "cannot open %s: %s", cr->file, strerror(errno));
    int rc = read_stream(f, &text, &len);
    if (!is_stdin)
        fclose(f);
    if (rc < 0) {
        free(text);
        return cli_fail(c, FY_EUSAGE, "cannot read %s", cr->file);
    }
    rc = fy_def_parse(text, len, &cr->def, &e);
    free(text);
    if (rc < 0)
        return cli_fail(c, e.code, "%s: %s", cr->file, e.text);
    if (is_stdin || !realpath(cr->file, folder))
        return 0; /* paths are seen from here */
    return fy_def_absolute(&cr->def, dirname(folder), &e) < 0 ? told(c, &e) : 0;
}

static int parse_options(struct cli *c, struct create *cr)
{
    struct option all[36];
    int n = 0, code = 0, o;
    for (const struct option *p = cli_start_options; p->name && n < 31; p++)
        all[n++] = *p;
    for (const struct option *p = own_options; p->name; p++)
        all[n++] = *p;
    all[n] = (struct option){0};
    while ((o = cli_option(c, CLI_START_LETTERS "f:", all, &code)) != -1) {
        if (o == -2)
            return code ? code : -1;
        if (o == 'f') {
            cr->file = optarg;
        } else if (o == OPT_REPLACE) {
            cr->replace = true;
        } else if (o == OPT_AUTOSTART) {
            cr->any = cr->autostart = true;
        } else if (o == OPT_RESTART) {
            cr->any = true;
            cr->restart = optarg;
        } else {
            cr->any = true;
            if ((code = cli_start_option(c, &cr->s, o)) != 0)
                return code;
        }
    }
    return 0;
}

static int make_definition(struct cli *c, struct create *cr)
{
    char here[PATH_MAX];
    struct fy_err e;
    if (cr->file && cr->any)
        return cli_fail(c, FY_EUSAGE, "with -f FILE the settings are in the file (leave the options away)");
    if (cr->s.console || cr->s.op.paused || cr->s.op.here)
        return cli_fail(c, FY_EUSAGE, "--console, --paused and --here are for `vmctl start`");
    int code = cr->file ? from_file(c, cr) : from_options(c, cr);
    if (code)
        return code;
    if (c->name && *cr->def.name && strcmp(c->name, cr->def.name) != 0)
        return cli_fail(c, FY_EUSAGE, "%s defines %s", cr->file, cr->def.name);
    if (c->name && strlen(c->name) < sizeof cr->def.name)
        memcpy(cr->def.name, c->name, strlen(c->name) + 1);
    else if (c->name)
        return cli_fail(c, FY_EUSAGE, "the name is too long");
    if (!getcwd(here, sizeof here))
        return cli_fail(c, FY_EFAIL, "where is this folder? %s", strerror(errno));
    if (fy_def_absolute(&cr->def, here, &e) < 0 || fy_def_check(&cr->def, &e) < 0)
        return told(c, &e);
    return 0;
}

static int send_definition(struct cli *c, const struct create *cr)
{
    static char name[FY_DEF_NAME_MAX];
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiDefine op = FERRY__API_DEFINE__INIT;
    op.yaml = fy_def_write(&cr->def);
    if (!op.yaml)
        return cli_fail(c, FY_ERESOURCE, "no memory");
    snprintf(name, sizeof name, "%s", cr->def.name);
    c->name = name;
    op.replace = cr->replace;
    req.op_case = FERRY__API_REQUEST__OP_DEFINE;
    req.define = &op;
    struct cli_request r = {.req = &req};
    int code = cli_call(c, &r);
    free(op.yaml);
    if (code == 0)
        cli_done_json(c, "create");
    return code;
}

int verb_create(struct cli *c)
{
    struct create cr = {.s.op = FERRY__API_START__INIT};
    int code = parse_options(c, &cr);
    if (code == 0 && !(cr.file && c->argc == optind))
        code = cli_operands(c, 1, "NAME [options] | -f FILE");
    if (code == 0)
        code = make_definition(c, &cr);
    if (code == 0)
        code = send_definition(c, &cr);
    fy_def_free(&cr.def);
    cli_start_free(&cr.s);
    return code < 0 ? 0 : code;
}

/* The assignment with its path, if it has one, made absolute; the caller frees it. NULL: *code is told. */
static char *absolute(struct cli *c, char *text, int *code)
{
    struct fy_def one = {0};
    struct fy_err e;
    char here[PATH_MAX];
    char *out = NULL;
    size_t count, n = strcspn(text, "=");
    const struct fy_def_key *k = fy_def_keys(&count);
    if (fy_def_assign(&one, &text, 1, &e) < 0 || !getcwd(here, sizeof here) ||
        fy_def_absolute(&one, here, &e) < 0) {
        *code = told(c, &e);
        fy_def_free(&one);
        return NULL;
    }
    const char *value = text[n] ? text + n + 1 : "";
    for (size_t i = 0; i < count; i++) {
        if (k[i].type == FY_DEF_PATH && one.values[i].set)
            value = one.values[i].text;
        else if (k[i].type == FY_DEF_PATHS && one.values[i].count)
            value = one.values[i].items[0];
    }
    if (asprintf(&out, "%.*s=%s", (int)n, text, value) < 0) {
        out = NULL;
        *code = cli_fail(c, FY_ERESOURCE, "no memory");
    }
    fy_def_free(&one);
    return out;
}

static int set_definition(struct cli *c);

/* Options act on a guest that runs, assignments on its definition. */
int verb_set(struct cli *c)
{
    struct cli_limit live = CLI_LIMIT_INIT;
    int code = 0, o;
    bool now = false;
    while ((o = cli_option(c, "", cli_limit_options, &code)) != -1) {
        if (o == -2 || (code = cli_limit_option(c, &live, o)) != 0)
            return code;
        now = true;
    }
    if (c->argc - optind < (now ? 1 : 2))
        return cli_operands(c, 2,
                            "NAME KEY=VALUE... | NAME --cpu-weight|--cpu-cap|--cpus|--io-weight|"
                            "--memory-limit|--memory VALUE...");
    c->name = c->argv[optind++];
    if (now && (code = cli_limit_send(c, &live)) != 0)
        return code;
    return optind < c->argc ? set_definition(c) : 0;
}

static int set_definition(struct cli *c)
{
    int code = 0;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiSet op = FERRY__API_SET__INIT;
    size_t n = (size_t)(c->argc - optind);
    op.assignments = calloc(n, sizeof *op.assignments);
    if (!op.assignments)
        return cli_fail(c, FY_ERESOURCE, "no memory");
    for (; op.n_assignments < n; op.n_assignments++) {
        char *text = absolute(c, c->argv[optind + (int)op.n_assignments], &code);
        if (!text)
            break;
        op.assignments[op.n_assignments] = text;
    }
    op.name = (char *)(uintptr_t)c->name;
    req.op_case = FERRY__API_REQUEST__OP_SET;
    req.set = &op;
    struct cli_request r = {.req = &req};
    if (code == 0)
        code = cli_call(c, &r);
    if (code == 0)
        cli_done_json(c, "set");
    for (size_t i = 0; i < op.n_assignments; i++)
        free(op.assignments[i]);
    free(op.assignments);
    return code;
}

static int name_call(struct cli *c, Ferry__ApiRequest__OpCase which, cli_reply_cb on_reply, void *arg)
{
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    Ferry__ApiName name = FERRY__API_NAME__INIT;
    name.name = (char *)(uintptr_t)c->name;
    req.op_case = which;
    req.show = &name; /* the requests of a name hold the same message */
    struct cli_request r = {.req = &req, .on_reply = on_reply, .arg = arg};
    return cli_call(c, &r);
}

int verb_delete(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 1, "NAME")) != 0)
        return code;
    code = name_call(c, FERRY__API_REQUEST__OP_UNDEFINE, NULL, NULL);
    if (code == 0)
        cli_done_json(c, "delete");
    return code;
}

static void export_json(const char *yaml)
{
    struct fy_def def = {0};
    size_t count;
    const struct fy_def_key *k = fy_def_keys(&count);
    struct cli_json j = cli_json_begin(stdout);
    if (fy_def_parse(yaml, strlen(yaml), &def, NULL) == 0) {
        cli_json_string(&j, "name", def.name);
        for (size_t i = 0; i < count; i++) {
            const struct fy_def_value *v = &def.values[i];
            if (!v->set)
                continue;
            if (k[i].type == FY_DEF_BOOL) {
                cli_json_bool(&j, k[i].name, v->number != 0);
            } else if (k[i].type == FY_DEF_SIZE || k[i].type == FY_DEF_NUMBER) {
                cli_json_u64(&j, k[i].name, v->number);
            } else if (v->text) {
                cli_json_string(&j, k[i].name, v->text);
            } else {
                cli_json_array(&j, k[i].name);
                for (size_t n = 0; n < v->count; n++)
                    cli_json_string(&j, NULL, v->items[n]);
                cli_json_close(&j, ']');
            }
        }
    }
    /* The whole text too: a newer daemon may have settings that this vmctl does not know. */
    cli_json_string(&j, "yaml", yaml);
    cli_json_end(&j);
    fy_def_free(&def);
}

static void export_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    const struct cli *c = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_MESSAGE)
        return;
    if (c->json)
        export_json(r->message->text);
    else
        fputs(r->message->text, stdout);
}

int verb_export(struct cli *c)
{
    int code = 0;
    if (cli_option(c, "", NULL, &code) != -1)
        return code;
    if ((code = cli_operands(c, 1, "NAME")) != 0)
        return code;
    return name_call(c, FERRY__API_REQUEST__OP_EXPORT, export_reply, c);
}
