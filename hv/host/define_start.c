// SPDX-License-Identifier: Apache-2.0
/* A definition turned into a request to start a guest, and that request made by the daemon itself. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/define/disk.h"
#include "hv/define/net.h"
#include "hv/host/define.h"
#include "hv/host/define_start.h"
#include "hv/host/firmware.h"

static const ProtobufCFieldDescriptor *field_of(const struct fy_def_key *k)
{
    return k->field ? protobuf_c_message_descriptor_get_field_by_name(&ferry__api_start__descriptor, k->field)
                    : NULL;
}

/* Whether put_field or fill_disks takes the value: a list goes into texts, or is read by its key's own
 * parser. */
static bool is_taken(const struct fy_def_key *k)
{
    const ProtobufCFieldDescriptor *f = field_of(k);
    if (f && (k->type == FY_DEF_LIST || k->type == FY_DEF_PATHS))
        return f->type == PROTOBUF_C_TYPE_STRING || !strcmp(k->name, "disks") || !strcmp(k->name, "nets");
    return f != NULL;
}

int fyd_def_supported(const struct fy_def *def, struct fy_err *e)
{
    size_t count;
    const struct fy_def_key *k = fy_def_keys(&count);
    for (size_t i = 0; i < count; i++)
        if (def->values[i].set && k[i].field && !is_taken(&k[i]))
            return fy_fail(e, FY_EUNSUPPORTED, "%s: this ferryd gives its guests none (leave it away)",
                           k[i].name);
    return 0;
}

/* One value into the request; texts and items stay the definition's. */
static void put_field(Ferry__ApiStart *op, const ProtobufCFieldDescriptor *f, const struct fy_def_value *v)
{
    void *member = (char *)op + f->offset;
    if (f->label == PROTOBUF_C_LABEL_REPEATED && f->type == PROTOBUF_C_TYPE_STRING) {
        memcpy(member, &v->items, sizeof v->items);
        memcpy((char *)op + f->quantifier_offset, &v->count, sizeof v->count);
    } else if (f->type == PROTOBUF_C_TYPE_STRING && v->text) {
        memcpy(member, &v->text, sizeof v->text);
    } else if (f->type == PROTOBUF_C_TYPE_BOOL) {
        protobuf_c_boolean b = v->number != 0;
        memcpy(member, &b, sizeof b);
    } else if (f->type == PROTOBUF_C_TYPE_UINT32) {
        uint32_t n = (uint32_t)v->number;
        memcpy(member, &n, sizeof n);
    } else if (f->type == PROTOBUF_C_TYPE_UINT64) {
        memcpy(member, &v->number, sizeof v->number);
    }
}

void fyd_def_fill(const struct fy_def *def, Ferry__ApiStart *op)
{
    size_t count;
    const struct fy_def_key *k = fy_def_keys(&count);
    for (size_t i = 0; i < count; i++) {
        const ProtobufCFieldDescriptor *f = def->values[i].set ? field_of(&k[i]) : NULL;
        if (f)
            put_field(op, f, &def->values[i]);
    }
    op->name = (char *)(uintptr_t)def->name;
    op->has_initrd = fy_def_text(def, "initrd") != NULL;
    op->has_firmware_file = *op->firmware && !fyd_firmware_known(op->firmware);
}

/* A regular file for reading, or -1. What is none could keep the daemon waiting. */
static int open_file(const char *key, const char *path, struct fy_err *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return fy_fail_errno(e, FY_EUSAGE, errno, "cannot open its %s %s", key, path);
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    fy_close(&fd);
    return fy_fail(e, FY_EUSAGE, "its %s %s is no regular file", key, path);
}

struct disks {
    Ferry__Disk disks[FY_DEF_DISKS_MAX], *list[FY_DEF_DISKS_MAX];
    char *texts[FY_DEF_DISKS_MAX]; /* owned: what disks points to */
};

static void free_disks(Ferry__ApiStart *op, struct disks *k)
{
    for (size_t i = 0; i < op->n_disks; i++)
        free(k->texts[i]);
}

static int fill_disks(const struct fy_def *def, Ferry__ApiStart *op, struct disks *k, struct fy_err *e)
{
    const struct fy_def_value *v = &def->values[fy_def_find("disks")];
    if (v->count > FY_DEF_DISKS_MAX)
        return fy_fail(e, FY_EUSAGE, "a guest has at most %d disks", FY_DEF_DISKS_MAX);
    op->disks = k->list;
    for (; op->n_disks < v->count; op->n_disks++) {
        size_t n = op->n_disks;
        k->list[n] = &k->disks[n];
        if (fy_parse_disk(v->items[n], &k->disks[n], &k->texts[n], e) < 0) {
            free(k->texts[n]);
            return -1;
        }
    }
    return 0;
}

struct nics {
    struct fy_def_nic nics[FY_DEF_NICS_MAX];
    Ferry__Nic *list[FY_DEF_NICS_MAX];
};

static void free_nics(Ferry__ApiStart *op, struct nics *k)
{
    for (size_t i = 0; i < op->n_nics; i++)
        fy_nic_free(&k->nics[i]);
}

static int fill_nics(const struct fy_def *def, Ferry__ApiStart *op, struct nics *k, struct fy_err *e)
{
    char why[160];
    const struct fy_def_value *v = &def->values[fy_def_find("nets")];
    if (v->count > FY_DEF_NICS_MAX)
        return fy_fail(e, FY_EUSAGE, "a guest has at most %d network cards", FY_DEF_NICS_MAX);
    op->nics = k->list;
    for (size_t i = 0; i < v->count; i++) {
        k->list[i] = &k->nics[i].nic;
        op->n_nics++;
        if (fy_nic_parse(v->items[i], &k->nics[i], why, sizeof why) < 0)
            return fy_fail(e, FY_EUSAGE, "network card %s: %s", v->items[i], why);
    }
    return 0;
}

/* Its kernel and initrd, or its firmware where that is a file. fds: 3, of which *nfds are filled, also on
 * failure. */
static int open_files(const struct fy_def *def, int *fds, int *nfds, struct fy_err *e)
{
    static const char *const files[] = {"kernel", "initrd", "firmware"};
    for (size_t i = 0; i < 3; i++) {
        const char *path = fy_def_text(def, files[i]);
        if (!path || (i == 2 && fyd_firmware_known(path)))
            continue;
        if (i == 2 && path[0] != '/')
            return fy_fail(e, FY_EUSAGE, "its firmware is bios, uefi or an absolute path, not %s", path);
        if ((fds[*nfds] = open_file(files[i], path, e)) < 0)
            return -1;
        ++*nfds;
    }
    return 0;
}

static int start(struct fyd_client *c, struct fyd_def *def, bool paused, bool here, struct fy_err *e)
{
    int fds[3] = {-1, -1, -1};
    int nfds = 0;
    Ferry__ApiStart op = FERRY__API_START__INIT;
    struct disks disks;
    struct nics nics;
    if (fyd_def_may_start(c->d, def->def.name, here, e) < 0)
        return -1;
    int rc = open_files(&def->def, fds, &nfds, e);
    if (rc == 0) {
        fyd_def_fill(&def->def, &op);
        op.paused = paused;
        op.here = here;
        rc = fill_disks(&def->def, &op, &disks, e);
        if (rc == 0)
            rc = fill_nics(&def->def, &op, &nics, e);
        if (rc == 0)
            fyd_api_start(c, &op, fds, nfds);
        free_disks(&op, &disks);
        free_nics(&op, &nics);
    }
    for (int i = 0; i < 3; i++)
        fy_close(&fds[i]);
    return rc;
}

void fyd_api_start_defined(struct fyd_client *c, const Ferry__ApiStart *op)
{
    struct fyd_def *def = fyd_def_find(c->d, op->name);
    struct fy_err e;
    if (!def)
        fyd_reply_fail(
            c, FY_EUSAGE,
            "nothing to boot is given (-k KERNEL or --firmware), and it has no definition to start "
            "from (`vmctl create` makes one)");
    else if (start(c, def, op->paused, op->here, &e) < 0)
        fyd_reply_error(c, &e);
}

/* The answer to a start that nobody asked for. */
static void on_answer(struct fyd_client *c, const Ferry__ApiReply *r)
{
    if (!r->last)
        return;
    struct fyd_def *def = fyd_def_find(c->d, c->sink_name);
    if (r->code)
        fy_warn("guest %s cannot be started by itself: %s", c->sink_name, r->text);
    else
        fy_info("guest %s: started by itself", c->sink_name);
    if (r->code && def && r->code != FY_EEXISTS)
        fyd_def_start_failed(def);
}

void fyd_def_start(struct fyd_def *def)
{
    struct fy_err e;
    const struct fyd_guest *last = fyd_guest_by_uuid(def->d, def->run);
    if (last && last->state == FYD_G_CRASHED && last->pidfd >= 0) {
        /* Its process has still to go. */
        fy_timer_arm(def->timer, 100);
        return;
    }
    struct fyd_client *c = calloc(1, sizeof *c);
    if (!c) {
        fy_warn("guest %s cannot be started by itself: no memory", def->def.name);
        return;
    }
    *c = (struct fyd_client){.next = def->d->clients, .d = def->d, .sink = on_answer, .gone = true};
    def->d->clients = c;
    fyd_copy(c->sink_name, sizeof c->sink_name, def->def.name);
    fyd_client_hold(c);
    if (start(c, def, false, false, &e) < 0)
        fyd_reply_error(c, &e);
    fyd_client_release(c);
}
