// SPDX-License-Identifier: Apache-2.0
/* API requests about guests. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/hex.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/host/blk.h"
#include "hv/host/console.h"
#include "hv/host/define.h"
#include "hv/host/disks.h"
#include "hv/host/engine.h"
#include "hv/host/firmware.h"
#include "hv/host/guests.h"
#include "hv/host/net.h"
#include "hv/host/promise.h"
#include "proto/wire.h"

#define CALL_MS 10000

struct ask {
    struct fyd_client *c;
    struct fyd_guest *g;
    char name[FYD_NAME_MAX];
};

static struct ask *new_ask(struct fyd_client *c, struct fyd_guest *g)
{
    struct ask *a = calloc(1, sizeof *a);
    if (!a) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        return NULL;
    }
    a->c = c;
    a->g = g;
    fyd_copy(a->name, sizeof a->name, g ? g->name : "");
    fyd_client_hold(c);
    return a;
}

static void ask_over(struct ask *a)
{
    fyd_client_release(a->c);
    free(a);
}

struct fyd_guest *fyd_api_live_guest(struct fyd_client *c, const char *name)
{
    struct fyd_guest *g = fyd_guest_by_name(c->d, name);
    if (!g)
        fyd_reply_no_guest(c, name);
    else if (g->state == FYD_G_MOVED)
        fyd_reply_fail(c, FY_ESTATE, "it has moved to %s (ask there)", g->moved_to);
    else if (g->state == FYD_G_STOPPED || g->state == FYD_G_CRASHED)
        fyd_reply_fail(c, FY_ESTATE, "it is %s%s%s (start it again)", fyd_gstate_name(g->state),
                       *g->report ? ": " : "", g->report);
    else if (!g->link || g->launched)
        fyd_reply_fail(c, FY_ESTATE, "it is %s (try again in a moment)", fyd_gstate_name(g->state));
    else
        return g;
    return NULL;
}

static int check_start(struct fyd *d, const Ferry__ApiStart *op, int nfds, struct fy_err *e)
{
    uint64_t disk = fyd_disk_available(d);
    if (!fyd_name_ok(op->name))
        return fy_fail(e, FY_EUSAGE,
                       "a name has 1 to 63 letters, digits, dots, dashes or underscores and begins with "
                       "a letter or digit");
    if (fyd_def_may_start(d, op->name, op->here, e) < 0)
        return -1;
    /* With firmware there may be a kernel, without there must. */
    int files = *op->firmware && op->has_firmware_file;
    if (nfds != files + 1 + op->has_initrd && !(*op->firmware && nfds == files && !op->has_initrd))
        return fy_fail(e, FY_EUSAGE,
                       op->has_initrd ? "an initrd is of no use without a kernel (-k KERNEL)"
                                      : "a kernel (-k KERNEL) or --firmware is needed");
    if (op->memory_bytes % (2u << 20) || op->memory_bytes > FY_MEMORY_MAX)
        return fy_fail(e, FY_EUSAGE, "memory must be a multiple of 2 MiB, at most 1 TiB");
    if (op->vcpus > FY_VCPUS_MAX)
        return fy_fail(e, FY_EUSAGE, "at most %d vCPUs", FY_VCPUS_MAX);
    if (fyd_nics_check(op->nics, op->n_nics, e) < 0)
        return -1;
    struct fyd_engine engine;
    if (fyd_engine_parse(op->engine, &engine, e) < 0 || fyd_engine_fits(&engine, op->vcpus, e) < 0)
        return -1;
    if (disk < FYD_DISK_MARGIN)
        return fy_fail(e, FY_ERESOURCE, "only %llu KiB of disk space are free under %s (free some)",
                       (unsigned long long)(disk >> 10), d->root);
    return 0;
}

static void warn_of_cpus(struct fyd_guest *g)
{
    char why[sizeof g->warning];
    fyd_promise_cpus(g->d, 0, why, sizeof why);
    if (!*why)
        return;
    fy_warn("guest %s: %s", g->name, why);
    if (!*g->warning)
        fyd_copy(g->warning, sizeof g->warning, why);
}

/* The new guest serves, or has failed. */
static void started(void *arg, const struct fy_err *err)
{
    struct ask *a = arg;
    struct fyd_guest *g = a->g;
    if (err) {
        struct fy_err e = *err;
        g->state = FYD_G_STOPPED;
        fyd_guest_remove(g);
        fyd_reply_error(a->c, &e);
    } else {
        if (g->state == FYD_G_STARTING)
            fyd_guest_set_state(g, FYD_G_RUNNING);
        warn_of_cpus(g);
        fyd_guest_persist(g, NULL, NULL);
        fyd_reply_guest(a->c, g, true);
    }
    ask_over(a);
}

struct start {
    struct fyd_client *client; /* held until its entry is made */
    struct ask *ask;
    Ferry__Machine *machine; /* strings point into `op` */
    Ferry__CpuPolicy cpu;
    Ferry__ApiStart *op; /* owned */
    int kernel, initrd, rom;
    Ferry__Firmware firmware;
    Ferry__BootImages images;
    int disks[FYD_DISKS_MAX];
    uint8_t uuid[FYD_ID_LEN];
    struct fyd_engine engine;
};

static void free_start(struct start *s)
{
    fy_close(&s->kernel);
    fy_close(&s->initrd);
    fy_close(&s->rom);
    fyd_disks_close(s->disks);
    if (s->op)
        ferry__api_start__free_unpacked(s->op, NULL);
    free(s->machine);
    free(s);
}

/* The record is durable: a daemon that dies from here on finds the hypervisor again. */
static void start_recorded(void *arg, const struct fy_err *err)
{
    struct start *s = arg;
    struct ask *a = s->ask;
    struct fy_err e;
    if (err || fyd_def_begun(a->g, &e) < 0) {
        started(a, err ? err : &e);
    } else {
        struct fyd_launch l = {.machine = s->machine,
                               .kernel_fd = s->kernel,
                               .initrd_fd = s->initrd,
                               .firmware_fd = s->rom,
                               .disk_fds = s->disks,
                               .paused = s->op->paused};
        fyd_guest_launch(a->g, &l, started, a);
    }
    free_start(s);
}

static void fill_machine(struct start *s)
{
    Ferry__Machine *m = s->machine;
    const Ferry__ApiStart *op = s->op;
    ferry__machine__init(m);
    ferry__cpu_policy__init(&s->cpu);
    m->revision = 0; /* the newest, as ferry-hv knows it */
    m->uuid = (ProtobufCBinaryData){FYD_ID_LEN, s->uuid};
    m->name = op->name;
    m->memory_bytes = op->memory_bytes ? op->memory_bytes : 512ull << 20;
    m->vcpus = op->vcpus ? op->vcpus : 1;
    s->cpu.model = op->cpu_model;
    m->cpu = &s->cpu;
    m->hugepages = op->hugepages;
    m->prealloc = op->prealloc;
    m->debug_exit = op->debug_exit;
    m->dirty_ring = op->dirty_ring;
    fyd_engine_parse(op->engine, &s->engine, NULL); /* check_start has found it right */
    m->engine = s->engine.name;
    m->icount_ns = s->engine.icount_ns;
    m->icount_seed = s->engine.icount_seed;
    m->firmware = s->rom >= 0 ? &s->firmware : NULL;
    m->images = fyd_images_measure(s->kernel, s->initrd, &s->images) ? &s->images : NULL;
    m->rng = !op->no_rng && !m->icount_ns;
    m->balloon = !m->icount_ns;
    m->virtio_console = op->virtio_console;
    m->vsock_cid = op->vsock_cid;
    m->cmdline = op->cmdline;
    m->has_initrd = op->has_initrd;
    m->n_nics = op->n_nics;
    m->nics = op->nics;
    m->n_disks = op->n_disks;
    m->disks = op->disks;
}

/* Open its disks, and let them say what the request left open. */
static int open_disks(struct fyd *d, struct start *s, struct fy_err *e)
{
    if (fyd_disks_open(d, s->machine, false, s->disks, e) < 0)
        return -1;
    return fyd_disks_complete(s->machine, s->disks, e);
}

/* Firmware gets its kernel from the images that are kept. */
static int check_images(const struct start *s, struct fy_err *e)
{
    if (s->rom < 0 || s->kernel < 0 || s->machine->images)
        return 0;
    return fy_fail(e, FY_EUSAGE,
                   "kernel and initrd are no files with something in them, or too large together");
}

static Ferry__ApiStart *copy_op(const Ferry__ApiStart *op)
{
    size_t len = ferry__api_start__get_packed_size(op);
    uint8_t *buf = malloc(len ? len : 1);
    if (!buf)
        return NULL;
    ferry__api_start__pack(op, buf);
    Ferry__ApiStart *copy = ferry__api_start__unpack(NULL, len, buf);
    free(buf);
    return copy;
}

static int check_formats(const Ferry__Machine *m, struct fy_err *e)
{
    if (m->n_disks > FYD_DISKS_MAX)
        return fy_fail(e, FY_EUSAGE, "a guest has at most %d disks", FYD_DISKS_MAX);
    for (size_t i = 0; i < m->n_disks; i++)
        if (m->disks[i]->format[0] && strcmp(m->disks[i]->format, "raw") != 0 &&
            strcmp(m->disks[i]->format, "qcow2") != 0)
            return fy_fail(e, FY_EUNSUPPORTED, "disk format %.20s is not known here (raw and qcow2 are)",
                           m->disks[i]->format);
    return 0;
}

/* The request is one that can be, its entry is made. */
static int start_entry(struct start *s, struct fy_err *e)
{
    struct fyd_client *c = s->client;
    struct fyd_guest *old = fyd_guest_by_name(c->d, s->op->name);
    if (check_images(s, e) < 0 || fyd_promise_check(c->d, s->machine, e) < 0 || open_disks(c->d, s, e) < 0)
        return -1;
    /* Time may have gone by. */
    if (old && fyd_def_may_start(c->d, s->op->name, s->op->here, e) < 0)
        return -1;
    if (old)
        fyd_guest_remove(old);
    struct fyd_guest *g = fyd_guest_new(c->d, s->op->name, s->uuid, FYD_G_STARTING, e);
    s->ask = g ? new_ask(c, g) : NULL;
    if (g) {
        g->promised = fyd_promise_of(s->machine);
        g->promised_vcpus = s->machine->vcpus;
    }
    if (g && !s->ask) {
        fyd_guest_remove(g);
        return 1; /* new_ask has answered */
    }
    return g ? 0 : -1;
}

/* Disks with a server have said what they are, or err. */
static void start_measured(void *arg, const struct fy_err *err)
{
    struct start *s = arg;
    struct fyd_client *c = s->client;
    struct fy_err e;
    int r = err ? -1 : start_entry(s, &e);
    if (r < 0)
        fyd_reply_error(c, err ? err : &e);
    if (r) {
        free_start(s);
    } else {
        fyd_def_begin(s->ask->g);
        fyd_changed_guest(s->ask->g, false);
        fyd_guest_persist(s->ask->g, start_recorded, s);
    }
    fyd_client_release(c);
}

void fyd_api_start(struct fyd_client *c, const Ferry__ApiStart *op, int *fds, int nfds)
{
    struct fy_err e;
    if (check_start(c->d, op, nfds, &e) < 0) {
        fyd_reply_error(c, &e);
        return;
    }
    struct start *s = calloc(1, sizeof *s);
    if (!s) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        return;
    }
    s->kernel = s->initrd = s->rom = -1;
    int images = nfds - (*op->firmware && op->has_firmware_file);
    s->kernel = images ? fds[0] : -1;
    s->initrd = images > 1 ? fds[1] : -1;
    if (*op->firmware)
        s->rom = fyd_firmware_open(op->firmware, images < nfds ? fds[images] : -1, &s->firmware, &e);
    for (int i = 0; i < nfds; i++)
        fds[i] = -1;
    for (unsigned i = 0; i < FYD_DISKS_MAX; i++)
        s->disks[i] = -1;
    if (*op->firmware && s->rom < 0) {
        fyd_reply_error(c, &e);
        free_start(s);
        return;
    }
    s->machine = calloc(1, sizeof *s->machine);
    s->op = copy_op(op);
    s->client = c;
    fy_uuid_new(s->uuid);
    if (!s->machine || !s->op) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        free_start(s);
        return;
    }
    fill_machine(s);
    fyd_client_hold(c);
    if (check_formats(s->machine, &e) < 0)
        start_measured(s, &e);
    else
        fyd_blk_measure(c->d, s->machine->disks, s->machine->n_disks, start_measured, s);
}

/* status and show: ask every live hypervisor, then reply. */
struct survey {
    struct fyd_client *c;
    unsigned open;
    char name[FYD_NAME_MAX]; /* empty: all */
};

struct survey_one {
    struct survey *s;
    uint8_t uuid[FYD_ID_LEN];
};

static void survey_over(struct survey *s)
{
    if (*s->name) {
        struct fyd_guest *g = fyd_guest_by_name(s->c->d, s->name);
        if (g)
            fyd_reply_guest(s->c, g, true);
        else if (!fyd_defs_reply(s->c, s->name, true))
            fyd_reply_fail(s->c, FY_ENOTFOUND, "no such guest (`vmctl status` shows them)");
    } else {
        for (struct fyd_guest *g = s->c->d->guests; g; g = g->next)
            if (!g->forget)
                fyd_reply_guest(s->c, g, false);
        fyd_defs_reply(s->c, "", false);
        fyd_reply_done(s->c);
    }
    fyd_client_release(s->c);
    free(s);
}

static void surveyed(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct survey_one *one = arg;
    struct survey *s = one->s;
    struct fyd_guest *g = fyd_guest_by_uuid(s->c->d, one->uuid);
    if (g && !err && r->op_case == FERRY__RESPONSE__OP_STATUS)
        fyd_guest_take_status(g, r->status);
    free(one);
    if (--s->open == 0)
        survey_over(s);
}

static void survey_ask(struct survey *s, struct fyd_guest *g)
{
    struct survey_one *one = calloc(1, sizeof *one);
    if (!one)
        return;
    one->s = s;
    memcpy(one->uuid, g->uuid, FYD_ID_LEN);
    Ferry__StatusRequest st = FERRY__STATUS_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    req.op_case = FERRY__REQUEST__OP_STATUS;
    req.status = &st;
    s->open++;
    fyd_hv_call(g->link, &req, NULL, 0, 1000, surveyed, one);
}

void fyd_api_status(struct fyd_client *c, const char *name)
{
    struct survey *s = calloc(1, sizeof *s);
    if (!s) {
        fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        return;
    }
    s->c = c;
    fyd_copy(s->name, sizeof s->name, name ? name : "");
    fyd_client_hold(c);
    s->open = 1;
    for (struct fyd_guest *g = c->d->guests; g; g = g->next)
        if (g->link && !g->launched && !g->forget && (!name || !strcmp(g->name, name)))
            survey_ask(s, g);
    if (name && !*name) {
        fyd_reply_fail(c, FY_EUSAGE, "a guest's name is needed");
        s->name[0] = 0;
    }
    if (--s->open == 0)
        survey_over(s);
}

static void console_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds,
                             int nfds)
{
    struct ask *a = arg;
    Ferry__ApiReply reply = FERRY__API_REPLY__INIT;
    Ferry__ApiConsoleAt at = FERRY__API_CONSOLE_AT__INIT;
    reply.last = true;
    reply.kind_case = FERRY__API_REPLY__KIND_CONSOLE_AT;
    reply.console_at = &at;
    if (r && r->op_case == FERRY__RESPONSE__OP_CONSOLE_ATTACH)
        at.position = r->console_attach->position;
    if (err)
        fyd_reply_error(a->c, err);
    else if (nfds != 1)
        fyd_reply_fail(a->c, FY_ECORRUPT, "the hypervisor gave no console");
    else
        fyd_reply(a->c, &reply, fds, 1);
    ask_over(a);
}

void fyd_api_console(struct fyd_client *c, const Ferry__ApiConsole *op)
{
    struct fyd_guest *g = fyd_guest_by_name(c->d, op->name);
    if (g && g->state == FYD_G_MOVED) {
        fyd_console_elsewhere(c, g, op);
        return;
    }
    g = fyd_api_live_guest(c, op->name);
    struct ask *a = g ? new_ask(c, g) : NULL;
    if (!a)
        return;
    Ferry__ConsoleAttachRequest con = FERRY__CONSOLE_ATTACH_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    con.scrollback = op->scrollback;
    con.after = op->after;
    req.op_case = FERRY__REQUEST__OP_CONSOLE_ATTACH;
    req.console_attach = &con;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, console_answered, a);
}

/* An op whose answer carries nothing. */
static void plain_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)r;
    (void)fds;
    (void)nfds;
    struct ask *a = arg;
    if (err)
        fyd_reply_error(a->c, err);
    else
        fyd_reply_done(a->c);
    ask_over(a);
}

void fyd_api_pause(struct fyd_client *c, const char *name, bool pause)
{
    struct fyd_guest *g = fyd_api_live_guest(c, name);
    if (!g)
        return;
    if (g->state == FYD_G_HANDING || g->state == FYD_G_UNCERTAIN || g->state == FYD_G_INCOMING) {
        fyd_reply_fail(c, FY_ESTATE, "it is %s (wait for the end of the move)", fyd_gstate_name(g->state));
        return;
    }
    struct ask *a = new_ask(c, g);
    if (!a)
        return;
    Ferry__PauseRequest p = FERRY__PAUSE_REQUEST__INIT;
    Ferry__ResumeRequest u = FERRY__RESUME_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    p.keep = u.keep = true;
    if (pause) {
        req.op_case = FERRY__REQUEST__OP_PAUSE;
        req.pause = &p;
    } else {
        req.op_case = FERRY__REQUEST__OP_RESUME;
        req.resume = &u;
    }
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, plain_answered, a);
}

void fyd_api_reset(struct fyd_client *c, const char *name)
{
    struct fyd_guest *g = fyd_api_live_guest(c, name);
    struct ask *a = g ? new_ask(c, g) : NULL;
    if (!a)
        return;
    Ferry__ResetRequest reset = FERRY__RESET_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    req.op_case = FERRY__REQUEST__OP_RESET;
    req.reset = &reset;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, plain_answered, a);
}

static void stopped(void *arg, struct fyd_guest *g)
{
    struct ask *a = arg;
    if (g->state == FYD_G_MOVED)
        fyd_reply_fail(a->c, FY_ESTATE, "it has moved to %s (stop it there)", g->moved_to);
    else
        fyd_reply_guest(a->c, g, true);
    ask_over(a);
}

static void button_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)r;
    (void)fds;
    (void)nfds;
    struct ask *a = arg;
    struct fyd_guest *g = fyd_guest_by_name(a->c->d, a->name);
    if (err)
        fyd_reply_error(a->c, err);
    else if (g)
        fyd_reply_guest(a->c, g, true);
    else
        fyd_reply_done(a->c);
    ask_over(a);
}

static void ignore_answer(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)arg;
    (void)err;
    (void)r;
    (void)fds;
    (void)nfds;
}

static void stop_by_force(struct fyd_client *c, struct fyd_guest *g)
{
    struct ask *a = new_ask(c, g);
    if (!a)
        return;
    g->end_asked = true;
    fyd_guest_on_end(g, stopped, a);
    if (g->link && !g->launched) {
        Ferry__QuitRequest quit = FERRY__QUIT_REQUEST__INIT;
        Ferry__Request req = FERRY__REQUEST__INIT;
        quit.discard = true;
        req.op_case = FERRY__REQUEST__OP_QUIT;
        req.quit = &quit;
        fyd_hv_call(g->link, &req, NULL, 0, 2000, ignore_answer, NULL);
        fyd_guest_end_soon(g, 1000);
    } else {
        fyd_guest_kill(g);
    }
}

static void press_button(struct fyd_client *c, struct fyd_guest *g, bool wait)
{
    struct ask *a = new_ask(c, g);
    if (!a)
        return;
    Ferry__PowerButtonRequest button = FERRY__POWER_BUTTON_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    req.op_case = FERRY__REQUEST__OP_POWER_BUTTON;
    req.power_button = &button;
    if (wait)
        fyd_guest_on_end(g, stopped, a);
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, wait ? ignore_answer : button_answered, a);
}

void fyd_api_stop(struct fyd_client *c, const Ferry__ApiStop *op)
{
    struct fyd_guest *g = fyd_guest_by_name(c->d, op->name);
    if (!g) {
        fyd_reply_no_guest(c, op->name);
    } else if (!fyd_guest_active(g)) {
        /* Over already: stopping it again clears its entry away. */
        fyd_guest_remove(g);
        fyd_reply_done(c);
    } else if (g->state == FYD_G_HANDING || g->state == FYD_G_UNCERTAIN || g->state == FYD_G_INCOMING) {
        fyd_reply_fail(c, FY_ESTATE, "it is %s (wait for the end of the move, or `vmctl job cancel`)",
                       fyd_gstate_name(g->state));
    } else if (op->force) {
        stop_by_force(c, g);
    } else if ((g = fyd_api_live_guest(c, op->name)) != NULL) {
        press_button(c, g, op->wait);
    }
}

static void reply_exit(struct fyd_client *c, struct fyd_guest *g)
{
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    Ferry__ApiExit x = FERRY__API_EXIT__INIT;
    char hint[FYD_NAME_MAX + 64];
    x.state = (char *)(uintptr_t)fyd_gstate_name(g->state);
    x.exit_status = g->exit_status;
    x.report = g->report;
    r.last = true;
    r.kind_case = FERRY__API_REPLY__KIND_EXIT;
    r.exit = &x;
    if (g->state == FYD_G_CRASHED) {
        r.code = FY_ECRASHED;
        r.text = g->report;
    } else if (g->state == FYD_G_MOVED) {
        snprintf(hint, sizeof hint, "it has moved to %s (wait for it there)", g->moved_to);
        r.code = FY_ESTATE;
        r.text = hint;
    }
    fyd_reply(c, &r, NULL, 0);
}

static void waited(void *arg, struct fyd_guest *g)
{
    struct ask *a = arg;
    if (fyd_guest_active(g) && !a->c->gone) {
        /* A hand-over has still to decide what became of it. */
        fyd_reply_fail(a->c, FY_EUNCERTAIN,
                       "its hypervisor is gone; whether it runs elsewhere is being found out");
    } else {
        reply_exit(a->c, g);
    }
    ask_over(a);
}

void fyd_api_wait(struct fyd_client *c, const char *name)
{
    struct fyd_guest *g = fyd_guest_by_name(c->d, name);
    if (!g) {
        fyd_reply_no_guest(c, name);
    } else if (!fyd_guest_active(g)) {
        reply_exit(c, g);
    } else {
        struct ask *a = new_ask(c, g);
        if (a)
            fyd_guest_on_end(g, waited, a);
    }
}
