// SPDX-License-Identifier: Apache-2.0
/* What vmctl's verbs share: the connection to ferryd, messages to the operator, printing of objects. */
#ifndef FERRY_CLI_CLI_H
#define FERRY_CLI_CLI_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/out.h"
#include "hv/base/err.h"
#include "hv/define/disk.h"
#include "hv/define/net.h"
#include "proto/api.pb-c.h"

#define CLI_API_VERSION 1

struct cli {
    const char *socket; /* as the operator gave it, or NULL */
    bool json;
    const char *verb; /* "migrate", "job show": for messages */
    const char *name; /* the object of the verb, or NULL */
    int argc;         /* of the verb: argv[0] is the verb */
    char **argv;
};

struct cli_verb {
    const char *name;
    int (*run)(struct cli *c);
    const char *args;
    const char *help;
};

/* "vmctl: VERB NAME: text" on stderr; returns code. */
int cli_fail(const struct cli *c, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Options of a verb: getopt_long over c->argv with `longs` (which must end with a zero entry) and the common
 * ones (--json, -H, --help). Returns the option, -1 at the end, or -2 when the verb is to return *code. */
int cli_option(struct cli *c, const char *shorts, const struct option *longs, int *code);

/* After the options: exactly `count` operands from c->argv[optind]; the first becomes c->name. 0 or FY_EUSAGE
 * (told). */
int cli_operands(struct cli *c, int count, const char *what);

/* Called for each reply that carries an object. Descriptors are closed after it unless -1 is put in their
 * place. */
typedef void (*cli_reply_cb)(void *arg, const Ferry__ApiReply *r, int *fds, int nfds);

struct cli_request {
    Ferry__ApiRequest *req;
    const int *fds;
    int nfds;
    cli_reply_cb on_reply; /* may be NULL */
    void *arg;
    void (*on_interrupt)(void *arg); /* SIGINT came; NULL: it ends vmctl */
    bool quiet;                      /* a refusal is not told on stderr */
};

/* Connect, send, receive replies to the last. Returns 0 or the code, which has been told on stderr. */
int cli_call(struct cli *c, const struct cli_request *r);
/* Its halves, for several requests at once, each on a connection of its own: send fills *sock (the caller's
 * to close; -1 on failure). */
int cli_send(struct cli *c, const struct cli_request *r, int *sock);
int cli_receive(struct cli *c, int sock, const struct cli_request *r);

/* Connect to the daemon, or -1 (told). */
int cli_connect(struct cli *c, int *code);

/* The daemon's name of a verb's subverb: "job" + "show". */
int cli_run_verbs(struct cli *c, const struct cli_verb *verbs, const char *what);

/* Objects as JSON members of the object that is open. */
void cli_guest_members(struct cli_json *j, const Ferry__ApiGuest *g);
void cli_job_members(struct cli_json *j, const Ferry__ApiJobInfo *job);
void cli_host_members(struct cli_json *j, const Ferry__ApiHost *h);
void cli_report_members(struct cli_json *j, const Ferry__JobReport *r);
void cli_progress_members(struct cli_json *j, const Ferry__JobProgress *p);

/* Attach the terminal to a guest's console until the end or ^]. */
int cli_console(struct cli *c, const char *name);

/* A finished move for people. */
void cli_print_report(const Ferry__ApiJobInfo *job);

/* Options of `start`, which `create` has too. */
struct cli_start {
    Ferry__ApiStart op;
    const char *kernel, *initrd;
    bool console;
    Ferry__Disk disks[FY_DEF_DISKS_MAX], *disk_list[FY_DEF_DISKS_MAX];
    const char *disk_args[FY_DEF_DISKS_MAX]; /* as they were given */
    char *texts[FY_DEF_DISKS_MAX];           /* owned: what disks points to */
    struct fy_def_nic nics[FY_DEF_NICS_MAX];
    Ferry__Nic *nic_list[FY_DEF_NICS_MAX];
    const char *nic_args[FY_DEF_NICS_MAX];
};
#define CLI_START_LETTERS "cm:p:k:r:a:d:n::"
extern const struct option cli_start_options[];
/* Take one of them: 0, or a code (told). */
int cli_start_option(struct cli *c, struct cli_start *s, int o);
/* Free what the options allocated. */
void cli_start_free(struct cli_start *s);

/* {"schema":1,"name":…,"done":…} with --json: verbs without data of their own say that they were done. */
void cli_done_json(struct cli *c, const char *done);

int verb_start(struct cli *c);
int verb_status(struct cli *c);
int verb_show(struct cli *c);
int verb_console(struct cli *c);
int verb_pause(struct cli *c);
int verb_unpause(struct cli *c);
int verb_stop(struct cli *c);
int verb_reset(struct cli *c);
int verb_wait(struct cli *c);
int verb_dirty_rate(struct cli *c);
int verb_migrate(struct cli *c);
int verb_job(struct cli *c);
int verb_host(struct cli *c);
int verb_create(struct cli *c);
int verb_set(struct cli *c);
int verb_delete(struct cli *c);
int verb_export(struct cli *c);
int verb_logs(struct cli *c);
int verb_image(struct cli *c);
int verb_doctor(struct cli *c);
int verb_version(struct cli *c);
int verb_watch(struct cli *c);
int verb_top(struct cli *c);
int verb_complete(struct cli *c);
extern const struct cli_verb cli_verbs[];

#endif
