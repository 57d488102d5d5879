// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/cli.h"

const struct cli_verb cli_verbs[] = {
    {"start", verb_start, "NAME [-k KERNEL] [options]", "start a guest, or one that is defined"},
    {"create", verb_create, "NAME [options] | -f FILE", "define a guest: keep what it is started with"},
    {"set", verb_set, "NAME KEY=VALUE... | --cpu-cap P ...", "change its definition, or its limits now"},
    {"delete", verb_delete, "NAME", "forget its definition"},
    {"export", verb_export, "NAME", "its definition as YAML"},
    {"status", verb_status, "[NAME]", "list guests"},
    {"show", verb_show, "NAME", "everything about one guest"},
    {"console", verb_console, "NAME", "attach to its serial console (detach with ^])"},
    {"pause", verb_pause, "NAME", "stop its vCPUs"},
    {"unpause", verb_unpause, "NAME", "let them go on"},
    {"stop", verb_stop, "NAME [-f] [-w]", "press its power button; -f: end it at once"},
    {"reset", verb_reset, "NAME", "press its reset button"},
    {"wait", verb_wait, "NAME", "wait until it has ended"},
    {"dirty-rate", verb_dirty_rate, "NAME [--interval T]", "how fast it writes memory"},
    {"logs", verb_logs, "NAME [-f] [--previous] [--console]", "what its hypervisor logged, or its console"},
    {"migrate", verb_migrate, "NAME HOST [options]", "move it to another host while it runs"},
    {"job", verb_job, "list|show|wait|cancel|set|resolve", "moves under way and past"},
    {"host", verb_host, "init|invite|join|list|remove", "this host and those it trusts"},
    {"image", verb_image, "create|seed", "make a disk to boot from, or one with settings"},
    {"doctor", verb_doctor, "", "what this host can and cannot do, and why"},
    {"top", verb_top, "[--interval T] [--count N] [--dirty]",
     "what guests use: CPU, memory, disks, networks"},
    {"watch", verb_watch, "", "every change as it happens"},
    {"version", verb_version, "", "versions of vmctl and ferryd"},
    {"__complete", verb_complete, "", ""},
    {NULL, NULL, NULL, NULL},
};

static void print_usage(FILE *f)
{
    fputs("usage: vmctl [-H SOCKET] [--json] VERB [NAME] [options]\n\n", f);
    for (const struct cli_verb *v = cli_verbs; v->name; v++)
        if (v->name[0] != '_')
            fprintf(f, "  %-10s %-34s %s\n", v->name, v->args, v->help);
    fputs("\nVerbs may be cut short while they stay clear. vmctl(1) has the rest.\n", f);
}

static const struct option common[] = {
    {"json", no_argument, NULL, 'J'},
    {"socket", required_argument, NULL, 'H'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

int cli_option(struct cli *c, const char *shorts, const struct option *longs, int *code)
{
    struct option all[40];
    char letters[64];
    size_t n = 0;
    for (const struct option *o = longs; o && o->name && n < 35; o++)
        all[n++] = *o;
    for (size_t i = 0; i < 3; i++)
        all[n++] = common[i];
    all[n] = (struct option){0};
    snprintf(letters, sizeof letters, "%sH:h", shorts);
    for (;;) {
        int o = getopt_long(c->argc, c->argv, letters, all, NULL);
        switch (o) {
        case 'J':
            c->json = true;
            break;
        case 'H':
            c->socket = optarg;
            break;
        case 'h':
            print_usage(stdout);
            *code = 0;
            return -2;
        case '?':
            *code = FY_EUSAGE;
            return -2;
        default:
            return o;
        }
    }
}

int cli_operands(struct cli *c, int count, const char *what)
{
    int have = c->argc - optind;
    if (have >= 1 && count >= 1)
        c->name = c->argv[optind];
    if (have == count)
        return 0;
    if (have > count)
        return cli_fail(c, FY_EUSAGE, "%s is one argument too many (usage: vmctl %s%s%s)",
                        c->argv[optind + count], c->verb, *what ? " " : "", what);
    return cli_fail(c, FY_EUSAGE, "an argument is missing (usage: vmctl %s %s)", c->verb, what);
}

/* c->argv[0] is the word to look up. */
int cli_run_verbs(struct cli *c, const struct cli_verb *verbs, const char *what)
{
    static char full[64];
    static char prefixed[80];
    const char *word = c->argc ? c->argv[0] : NULL;
    int i = word ? cli_prefix(word, &verbs->name, sizeof *verbs) : -1;
    if (i >= 0) {
        snprintf(full, sizeof full, "%s%s%s", what ? what : "", what ? " " : "", verbs[i].name);
        c->verb = full;
        snprintf(prefixed, sizeof prefixed, "vmctl: %s", full);
        c->argv[0] = prefixed; /* what getopt begins its messages with */
        optind = 0;            /* glibc: begin anew, also its order of arguments */
        return verbs[i].run(c);
    }
    c->verb = what;
    if (!word) {
        cli_fail(c, FY_EUSAGE, "a verb is missing");
    } else if (i == -2) {
        fprintf(stderr, "vmctl: %s%s%s could be", what ? what : "", what ? " " : "", word);
        for (const struct cli_verb *v = verbs; v->name; v++)
            if (!strncmp(v->name, word, strlen(word)))
                fprintf(stderr, " %s", v->name);
        fputs(" (write more of it)\n", stderr);
        return FY_EUSAGE;
    } else {
        cli_fail(c, FY_EUSAGE, "there is no verb %s", word);
    }
    fputs("verbs:", stderr);
    for (const struct cli_verb *v = verbs; v->name; v++)
        if (v->name[0] != '_')
            fprintf(stderr, " %s", v->name);
    putc('\n', stderr);
    return FY_EUSAGE;
}

int main(int argc, char **argv)
{
    struct cli c = {0};
    int o;
    while ((o = getopt_long(argc, argv, "+H:h", common, NULL)) != -1) {
        switch (o) {
        case 'J':
            c.json = true;
            break;
        case 'H':
            c.socket = optarg;
            break;
        case 'h':
            print_usage(stdout);
            return 0;
        case 'V':
            c.argc = 1;
            c.argv = argv;
            c.verb = "version";
            optind = 1;
            return verb_version(&c);
        default:
            print_usage(stderr);
            return FY_EUSAGE;
        }
    }
    c.argc = argc - optind;
    c.argv = argv + optind;
    if (c.argc == 0) {
        print_usage(stderr);
        return FY_EUSAGE;
    }
    int code = cli_run_verbs(&c, cli_verbs, NULL);
    if (fflush(stdout) != 0 && code == 0)
        code = cli_fail(&c, FY_ERESOURCE, "cannot write the output");
    return code;
}
