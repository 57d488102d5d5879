// SPDX-License-Identifier: Apache-2.0
#include "hv/vm/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/cpu/kvm/kvm.h"
#include "hv/cpu/soft/engine.h"
#include "hv/vm/firmware.h"
#include "hv/vm/images.h"
#include "hv/vm/internal.h"
#include "proto/wire.h"

#define MEMORY_UNIT (2ull << 20)

static Ferry__Machine *copy_desc(const Ferry__Machine *d)
{
    size_t len = ferry__machine__get_packed_size(d);
    uint8_t *buf = malloc(len ? len : 1);
    if (!buf)
        return NULL;
    ferry__machine__pack(d, buf);
    Ferry__Machine *copy = ferry__machine__unpack(NULL, len, buf);
    free(buf);
    return copy;
}

/* Does a machine of this description have a device of this name? */
static bool expects(const Ferry__Machine *d, const char *id)
{
    const struct {
        const char *id;
        bool here;
    } all[] = {
        {"fwcfg", d->firmware != NULL},
        {"nvram", d->firmware && d->firmware->nvram_bytes},
        {"console", true},
        {"serial0", true},
        {"rtc", true},
        {"pm", true},
        {"debug-exit", d->debug_exit},
        {"pci", d->revision >= 2},
        {"vmgenid", d->revision >= 2},
        {"vmclock", d->revision >= 2},
        {"rng", d->rng},
        {"balloon", d->balloon},
        {"vsock", d->vsock_cid != 0},
        {"hvc0", d->virtio_console},
    };
    for (size_t i = 0; i < FY_ARRAY_LEN(all); i++)
        if (!strcmp(id, all[i].id))
            return all[i].here;
    for (size_t i = 0; i < d->n_disks && i < FY_DISKS_LIMIT; i++) {
        char disk[32];
        snprintf(disk, sizeof disk, "disk%zu", i);
        if (!strcmp(id, disk))
            return true;
    }
    return fy_nics_expect(d, id);
}

static void check_devices(const Ferry__Machine *d, struct fy_err *why)
{
    for (size_t i = 0; i < d->n_devices; i++)
        if (!expects(d, d->devices[i]->id))
            fy_reason_add(why, FY_EREFUSED, "device %s (%s, version %u) is not known here", d->devices[i]->id,
                          d->devices[i]->type, d->devices[i]->version);
    const char *virtio = d->rng              ? "an entropy device"
                         : d->balloon        ? "a balloon"
                         : d->n_disks        ? "disks"
                         : d->n_nics         ? "a network card"
                         : d->vsock_cid      ? "a socket device"
                         : d->virtio_console ? "a virtio console"
                                             : NULL;
    fy_machine_check_disks(d, why);
    if (virtio && d->revision < 2)
        fy_reason_add(why, FY_EREFUSED, "a machine of revision %u has no PCI bus for %s", d->revision,
                      virtio);
    if (d->vsock_cid && d->vsock_cid < 3)
        fy_reason_add(why, FY_EREFUSED, "CID %u is not a guest's (3 and up)", d->vsock_cid);
    if (virtio && d->icount_ns)
        fy_reason_add(why, FY_EREFUSED, "icount runs are repeatable, what comes from %s is not", virtio);
}

int fy_machine_check(const Ferry__Machine *d, const struct fy_cpu_support *s, struct fy_err *e)
{
    struct fy_err why = {.code = 0}, cpu;
    if (!d->revision || d->revision > FY_MACHINE_REVISION)
        fy_reason_add(&why, FY_EREFUSED, "machine revision %u is not known here (this build has 1 to %u)",
                      d->revision, FY_MACHINE_REVISION);
    if (d->uuid.len != 16)
        fy_reason_add(&why, FY_EREFUSED, "the guest's UUID has %zu bytes instead of 16", d->uuid.len);
    if (d->memory_bytes == 0 || d->memory_bytes % MEMORY_UNIT || d->memory_bytes > FY_MEMORY_MAX)
        fy_reason_add(&why, FY_EREFUSED, "memory of %llu bytes: must be a multiple of 2 MiB, at most 1 TiB",
                      (unsigned long long)d->memory_bytes);
    if (d->vcpus == 0 || d->vcpus > FY_VCPUS_MAX)
        fy_reason_add(&why, FY_EREFUSED, "%u vCPUs: 1 to %u", d->vcpus, FY_VCPUS_MAX);
    if (d->engine[0] && strcmp(d->engine, "kvm") != 0 && strcmp(d->engine, "soft") != 0 &&
        strcmp(d->engine, "auto") != 0)
        fy_reason_add(&why, FY_EREFUSED, "engine \"%s\" is not known here (kvm or soft)", d->engine);
    if (d->icount_ns && !fy_machine_is_soft(d))
        fy_reason_add(&why, FY_EREFUSED,
                      "engine \"%s\" does not count instructions: icount is the software engine's",
                      d->engine);
    if (d->icount_ns && d->vcpus != 1)
        fy_reason_add(&why, FY_EREFUSED, "icount is for one vCPU, not %u", d->vcpus);
    if (d->icount_ns > FY_ICOUNT_NS_MAX)
        fy_reason_add(&why, FY_EREFUSED, "icount: %u ns an instruction: at most %u", d->icount_ns,
                      FY_ICOUNT_NS_MAX);
    if (!d->icount_ns && d->icount_seed)
        fy_reason_add(&why, FY_EREFUSED, "a seed without icount");
    if (fy_machine_is_soft(d) && d->dirty_ring)
        fy_reason_add(&why, FY_EREFUSED, "a dirty ring is KVM's: the software engine has none");
    if (d->firmware)
        fy_firmware_check(d, &why);
    if (d->images)
        fy_images_check(d, &why);
    check_devices(d, &why);
    fy_nics_check(d, &why);
    if (d->cpu && d->cpu->n_cpuid && fy_cpu_check(d->cpu, s, &cpu) < 0)
        fy_reason_add(&why, cpu.code, "%s", cpu.text);
    if (!why.code)
        return 0;
    if (e)
        *e = why;
    return -1;
}

bool fy_machine_is_soft(const Ferry__Machine *d)
{
    return !strcmp(d->engine, "soft");
}

int fy_machine_complete(Ferry__Machine *d, const struct fy_cpu_support *s, struct fy_err *e)
{
    if (!d->revision)
        d->revision = FY_MACHINE_REVISION;
    if (fy_nics_complete(d, e) < 0)
        return -1;
    if (!d->engine[0] || !strcmp(d->engine, "auto")) {
        char *engine = strdup("kvm");
        if (!engine)
            return fy_fail(e, FY_ERESOURCE, "no memory");
        if (d->engine != protobuf_c_empty_string)
            free(d->engine);
        d->engine = engine;
    }
    if (d->cpu && d->cpu->n_cpuid)
        return fy_machine_check(d, s, e);
    struct fy_err why = {.code = 0}, cpu;
    if (fy_machine_check(d, s, &cpu) < 0)
        fy_reason_add(&why, cpu.code, "%s", cpu.text);
    Ferry__CpuPolicy *p = malloc(sizeof *p);
    if (!p)
        return fy_fail(e, FY_ERESOURCE, "no memory for a CPU policy");
    ferry__cpu_policy__init(p);
    if (fy_cpu_resolve(d->cpu ? d->cpu->model : "", s, p, &cpu) < 0)
        fy_reason_add(&why, cpu.code, "%s", cpu.text);
    if (why.code) {
        ferry__cpu_policy__free_unpacked(p, NULL);
        if (e)
            *e = why;
        return -1;
    }
    if (d->cpu)
        ferry__cpu_policy__free_unpacked(d->cpu, NULL);
    d->cpu = p;
    return 0;
}

static int record_msrs(struct fy_machine *m, struct fy_err *e)
{
    Ferry__CpuPolicy *p = m->desc->cpu;
    size_t n;
    const uint32_t *msrs = m->engine->ops->msrs(m->engine, &n);
    if (p->n_msrs)
        return 0;
    p->msrs = malloc((n ? n : 1) * sizeof *p->msrs);
    if (!p->msrs)
        return fy_fail(e, FY_ERESOURCE, "no memory for the list of MSRs");
    memcpy(p->msrs, msrs, n * sizeof *msrs);
    p->n_msrs = n;
    return 0;
}

/* A description that came with devices must name exactly ours. */
static int agree_devices(struct fy_machine *m, struct fy_err *e)
{
    struct fy_err why = {.code = 0};
    if (!m->desc->n_devices)
        return fy_machine_list_devices(m->desc, m->devices, m->device_count, e);
    for (unsigned i = 0; i < m->device_count; i++) {
        bool found = false;
        for (size_t k = 0; k < m->desc->n_devices; k++)
            found |= !strcmp(m->desc->devices[k]->id, m->devices[i].id);
        if (!found)
            fy_reason_add(&why, FY_EREFUSED, "the guest has no device %s, a machine of this revision has",
                          m->devices[i].id);
    }
    for (size_t k = 0; k < m->desc->n_devices; k++) {
        const Ferry__DeviceDescription *d = m->desc->devices[k];
        struct fy_device *have = fy_machine_device(m, d->id);
        if (!have || strcmp(have->ops->type, d->type) != 0 || d->version > have->ops->version)
            fy_reason_add(&why, FY_EREFUSED, "device %s (%s, version %u) is not known here", d->id, d->type,
                          d->version);
    }
    if (why.code && e)
        *e = why;
    return why.code ? -1 : 0;
}

static int build(struct fy_machine *m, const struct fy_machine_config *c, uint64_t *prealloc_ns,
                 struct fy_err *e)
{
    const Ferry__Machine *d = m->desc;
    if (d->prealloc) {
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        if (fy_gmem_prealloc(m->gmem, cpus > 0 ? (unsigned)cpus : 1, prealloc_ns, e) < 0)
            return -1;
    }
    m->bus = fy_bus_new(e);
    if (!m->bus || fy_firmware_map(m, e) < 0)
        return -1;
    struct fy_engine_config ec = {
        .gmem = m->gmem,
        .bus = m->bus,
        .vcpus = d->vcpus,
        .policy = d->cpu,
        .dirty_ring = d->dirty_ring,
        .icount_ns = d->icount_ns,
        .icount_seed = d->icount_seed,
        .alarm = fy_machine_alarm,
        .alarm_arg = m,
    };
    m->engine = fy_machine_is_soft(d) ? fy_soft_engine_new(&ec, e) : fy_kvm_engine_new(c->kvm_fd, &ec, e);
    if (!m->engine)
        return -1;
    m->vcpus = d->vcpus;
    if (c->console_log_fds[0] >= 0) {
        m->conlog = fy_conlog_new(m->loop, c->console_log_fds, FY_CONLOG_FILE_MAX, e);
        if (!m->conlog)
            return -1;
    }
    if (fy_machine_make_chips(m, e) < 0 || agree_devices(m, e) < 0 || record_msrs(m, e) < 0)
        return -1;
    m->logdirty = fy_logdirty_new(m->gmem, m->engine->ops->dirty, m->engine, e);
    if (!m->logdirty || (d->firmware && !c->incoming && fy_firmware_load(m, c->firmware_fd, e) < 0) ||
        (d->images && !c->incoming && fy_images_keep(m, e) < 0))
        return -1;
    return fy_machine_start_threads(m, e);
}

struct fy_machine *fy_machine_new(const struct fy_machine_config *c, uint64_t *prealloc_ns, struct fy_err *e)
{
    int fds[4] = {c->mem_fd, c->mem_ro_fd, c->kernel_fd, c->initrd_fd};
    struct fy_machine *m = calloc(1, sizeof *m);
    *prealloc_ns = 0;
    if (!m) {
        for (int i = 0; i < 4; i++)
            fy_close(&fds[i]);
        for (unsigned i = 0; c->nic_fds && i < FY_NICS_MAX * FY_NET_PAIRS_MAX; i++)
            fy_close(&c->nic_fds[0][i]);
        fy_fail(e, FY_ERESOURCE, "no memory for a machine");
        return NULL;
    }
    memset(m->nic_fds, 0xff, sizeof m->nic_fds);
    if (c->nic_fds)
        memcpy(m->nic_fds, c->nic_fds, sizeof m->nic_fds);
    m->nic_lost = c->nic_lost;
    m->disk_lost = c->disk_lost;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->wake, NULL);
    pthread_cond_init(&m->parked, NULL);
    m->kernel_fd = c->kernel_fd;
    m->initrd_fd = c->initrd_fd;
    m->nvram_fd = c->nvram_fd;
    m->runlog_fd = c->runlog_fd;
    memcpy(m->run_id, c->run_id, sizeof m->run_id);
    m->loop = c->loop;
    m->arg = c->arg;
    m->console_out = c->console_out;
    m->console_room = c->console_room;
    m->ended = c->ended;
    m->reached = c->reached;
    m->vsock_connect = c->vsock_connect;
    m->exit_status = -1;
    m->clock_frozen = true;
    m->clock_offset = -(int64_t)fy_now_ns();
    m->desc = copy_desc(c->desc);
    if (!m->desc)
        fy_fail(e, FY_ERESOURCE, "no memory for a machine");
    else
        m->gmem = fy_gmem_open_area(c->mem_fd, c->mem_ro_fd, m->desc->memory_bytes, fy_firmware_area(m->desc),
                                    fy_images_area(m->desc), m->desc->hugepages, e);
    if (!m->desc) {
        fy_close(&fds[0]);
        fy_close(&fds[1]);
    }
    if (!m->desc || !m->gmem || build(m, c, prealloc_ns, e) < 0) {
        fy_machine_free(m);
        return NULL;
    }
    return m;
}

void fy_machine_free(struct fy_machine *m)
{
    if (!m)
        return;
    fy_machine_stop_threads(m);
    fy_machine_pause_devices(m); /* nothing marks pages any more */
    fy_logdirty_free(m->logdirty);
    if (m->gate)
        fy_gate_discard(m->gate); /* its producers are going */
    for (unsigned i = m->device_count; i-- > 0;)
        m->devices[i].ops->free(m->devices[i].dev);
    fy_conlog_free(m->conlog);
    fy_gate_free(m->gate);
    fy_iothread_free(m->io);
    fy_nics_close(m);
    if (m->engine)
        m->engine->ops->free(m->engine);
    fy_bus_free(m->bus);
    fy_gmem_free(m->gmem);
    if (m->desc)
        ferry__machine__free_unpacked(m->desc, NULL);
    fy_close(&m->kernel_fd);
    fy_close(&m->initrd_fd);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->wake);
    pthread_cond_destroy(&m->parked);
    free(m);
}

const Ferry__Machine *fy_machine_desc(const struct fy_machine *m)
{
    return m->desc;
}

struct fy_loop *fy_machine_loop(struct fy_machine *m)
{
    return m->loop;
}

struct fy_gmem *fy_machine_memory(struct fy_machine *m)
{
    return m->gmem;
}

struct fy_logdirty *fy_machine_logdirty(struct fy_machine *m)
{
    return m->logdirty;
}

static int needs_icount(const struct fy_machine *m, struct fy_err *e)
{
    return m->engine->icount
               ? 0
               : fy_fail(e, FY_EUNSUPPORTED,
                         "this guest's engine does not count instructions (start it with --engine "
                         "soft,icount=NS)");
}

int fy_machine_place(struct fy_machine *m, struct fy_icount_place *out, struct fy_err *e)
{
    if (needs_icount(m, e) < 0)
        return -1;
    m->engine->icount->place(m->engine, out);
    return 0;
}

int fy_machine_stop_at(struct fy_machine *m, uint64_t count, struct fy_err *e)
{
    if (needs_icount(m, e) < 0)
        return -1;
    pthread_mutex_lock(&m->lock);
    m->at_stop = false;
    pthread_mutex_unlock(&m->lock);
    m->engine->icount->stop_at(m->engine, count);
    return 0;
}

bool fy_machine_vcpu_dirty(struct fy_machine *m, uint64_t *pages)
{
    return m->engine->ops->vcpu_dirty(m->engine, pages);
}
