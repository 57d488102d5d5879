// SPDX-License-Identifier: Apache-2.0
/* The chips of a machine and what the machine offers them. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/clock.h"
#include "hv/dev/platform.h"
#include "hv/dev/virtio_vsock.h"
#include "hv/vm/firmware.h"
#include "hv/vm/internal.h"

uint64_t fy_machine_guest_ns(struct fy_machine *m)
{
    if (m->engine->icount)
        return m->engine->icount->now_ns(m->engine);
    if (__atomic_load_n(&m->clock_frozen, __ATOMIC_ACQUIRE))
        return __atomic_load_n(&m->clock_frozen_ns, __ATOMIC_RELAXED);
    return fy_now_ns() + (uint64_t)__atomic_load_n(&m->clock_offset, __ATOMIC_RELAXED);
}

static void host_irq(void *arg, unsigned gsi, bool level)
{
    struct fy_machine *m = arg;
    m->engine->ops->irq(m->engine, gsi, level);
}

static uint64_t host_guest_ns(void *arg)
{
    return fy_machine_guest_ns(arg);
}

static uint64_t host_realtime_ns(void *arg)
{
    struct fy_machine *m = arg;
    return m->engine->icount ? m->engine->icount->realtime_ns(m->engine) : fy_realtime_ns();
}

static int64_t host_realtime_s(void *arg)
{
    return (int64_t)(host_realtime_ns(arg) / 1000000000u);
}

static void host_wake_at(void *arg, uint64_t ns)
{
    struct fy_machine *m = arg;
    m->engine->icount->set_alarm(m->engine, ns);
}

void fy_machine_alarm(void *arg)
{
    fy_rtc_wake(&((struct fy_machine *)arg)->devices[DEV_RTC]);
}

static bool host_running(void *arg)
{
    struct fy_machine *m = arg;
    return !__atomic_load_n(&m->clock_frozen, __ATOMIC_ACQUIRE);
}

static size_t host_console_out(void *arg, const uint8_t *buf, size_t len)
{
    struct fy_machine *m = arg;
    return fy_console_put(&m->devices[DEV_CONSOLE], buf, len);
}

/* A serial port beside a virtio console is seen until the guest's driver has that one: firmware and boot
 * loaders use it. What comes later is the kernel's same messages again, or a second login. */
static size_t serial_console_out(void *arg, const uint8_t *buf, size_t len)
{
    const struct fy_machine *m = arg;
    return m->vconsole && fy_virtio_console_ready(m->vconsole) ? len : host_console_out(arg, buf, len);
}

static size_t host_console_out_room(void *arg)
{
    struct fy_machine *m = arg;
    return fy_console_room(&m->devices[DEV_CONSOLE]);
}

/* Output that has passed the gate, and room for more. */
static void console_passed(void *arg, const uint8_t *buf, size_t len)
{
    struct fy_machine *m = arg;
    fy_conlog_put(m->conlog, buf, len);
    if (m->console_out)
        m->console_out(m->arg, buf, len);
}

static void console_has_room(void *arg)
{
    struct fy_machine *m = arg;
    fy_serial_output_room(&m->devices[DEV_SERIAL]);
    if (m->vconsole)
        fy_virtio_console_output_room(m->vconsole);
}

static void host_console_room(void *arg)
{
    struct fy_machine *m = arg;
    if (m->console_room)
        m->console_room(m->arg);
}

static void host_power_off(void *arg)
{
    fy_machine_request_end(arg, FY_END_POWER_OFF, -1, "powered off");
}

static void host_reset(void *arg)
{
    fy_machine_request_end(arg, FY_END_RESET, -1, "reset");
}

static void host_exit(void *arg, int status)
{
    fy_machine_request_end(arg, FY_END_EXIT, status, "ended by its debug exit port");
}

static void host_msi(void *arg, uint64_t address, uint32_t data)
{
    struct fy_machine *m = arg;
    m->engine->ops->msi(m->engine, address, data);
}

static bool host_doorbell(void *arg, uint64_t gpa, int eventfd, bool on)
{
    struct fy_machine *m = arg;
    return m->engine->ops->doorbell && m->engine->ops->doorbell(m->engine, gpa, eventfd, on);
}

/* The place for the next device; FY_DEVICES_MAX holds all that a description can name. */
static struct fy_device *next(struct fy_machine *m)
{
    return &m->devices[m->device_count];
}

static int make_vsock(struct fy_machine *m, struct fy_err *e)
{
    struct fy_vsock_config c = {.slot = FY_SLOT_VSOCK,
                                .cid = m->desc->vsock_cid,
                                .gate = m->gate,
                                .io = m->io,
                                .arg = m->arg,
                                .connect = m->vsock_connect};
    if (fy_virtio_vsock_new(m->pci, m->gmem, &c, &m->vsock, next(m), e) < 0)
        return -1;
    m->device_count++;
    return 0;
}

/* What sits on the PCI bus. */
static int make_pci(struct fy_machine *m, struct fy_err *e)
{
    if (fy_pci_new(m->bus, &m->host, next(m), &m->pci, e) < 0)
        return -1;
    m->device_count++;
    if (fy_machine_make_disks(m, e) < 0 || fy_nics_make(m, e) < 0)
        return -1;
    if (!m->desc->rng && !m->desc->balloon && !m->desc->vsock_cid && !m->desc->virtio_console)
        return 0;
    m->io = fy_iothread_new("devices", e);
    if (!m->io)
        return -1;
    if (m->desc->rng) {
        if (fy_virtio_rng_new(m->pci, m->gmem, m->io, FY_SLOT_RNG, next(m), e) < 0)
            return -1;
        m->device_count++;
    }
    if (m->desc->balloon) {
        if (fy_virtio_balloon_new(m->pci, m->gmem, m->io, FY_SLOT_BALLOON, &m->balloon, next(m), e) < 0)
            return -1;
        m->device_count++;
    }
    if (m->desc->virtio_console) {
        if (fy_virtio_console_new(m->pci, m->gmem, m->io, FY_SLOT_CONSOLE, &m->vconsole, next(m), e) < 0)
            return -1;
        m->device_count++;
    }
    return m->desc->vsock_cid ? make_vsock(m, e) : 0;
}

void fy_machine_pause_devices(struct fy_machine *m)
{
    for (unsigned i = 0; i < m->device_count; i++)
        if (m->devices[i].ops->pause)
            m->devices[i].ops->pause(m->devices[i].dev);
}

void fy_machine_resume_devices(struct fy_machine *m)
{
    for (unsigned i = 0; i < m->device_count; i++)
        if (m->devices[i].ops->resume)
            m->devices[i].ops->resume(m->devices[i].dev);
}

static int make_generation(struct fy_machine *m, struct fy_err *e)
{
    uint8_t first[FY_VMGENID_BYTES] = {0};
    bool repeatable = m->desc->icount_ns != 0;
    memcpy(first, &m->desc->icount_seed, sizeof m->desc->icount_seed);
    if (fy_pm_add_events(m->bus, &m->devices[DEV_PM], e) < 0 ||
        fy_vmgenid_new(m->bus, repeatable ? first : NULL, next(m), e) < 0)
        return -1;
    m->device_count++;
    if (fy_vmclock_new(m->bus, repeatable, next(m), e) < 0)
        return -1;
    m->device_count++;
    return 0;
}

int fy_machine_make_chips(struct fy_machine *m, struct fy_err *e)
{
    m->host = (struct fy_dev_host){
        .arg = m,
        .irq = host_irq,
        .guest_ns = host_guest_ns,
        .realtime_s = host_realtime_s,
        .console_out = host_console_out,
        .console_out_room = host_console_out_room,
        .power_off = host_power_off,
        .reset = host_reset,
        .exit = host_exit,
        .console_room = host_console_room,
        .realtime_ns = host_realtime_ns,
        .running = host_running,
        .loop = m->engine->icount ? NULL : m->loop,
        .wake_at = m->engine->icount ? host_wake_at : NULL,
        .msi = host_msi,
        .doorbell = host_doorbell,
    };
    struct fy_device *d = m->devices;
    m->serial_host = m->host;
    m->serial_host.console_out = serial_console_out;
    m->gate = fy_gate_new(e);
    if (!m->gate)
        return -1;
    const struct fy_console_config cc = {
        .gate = m->gate, .arg = m, .out = console_passed, .room = console_has_room};
    if (fy_console_new(&cc, &d[DEV_CONSOLE], e) < 0)
        return -1;
    m->device_count++;
    if (fy_serial_new(m->bus, &m->serial_host, &d[DEV_SERIAL], e) < 0)
        return -1;
    m->device_count++;
    if (fy_rtc_new(m->bus, &m->host, m->desc->memory_bytes, &d[DEV_RTC], e) < 0)
        return -1;
    m->device_count++;
    if (fy_pm_new(m->bus, &m->host, &d[DEV_PM], e) < 0)
        return -1;
    m->device_count++;
    if (m->desc->debug_exit) {
        if (fy_debug_exit_new(m->bus, &m->host, next(m), e) < 0)
            return -1;
        m->device_count++;
    }
    if (m->desc->revision >= 2 && (make_generation(m, e) < 0 || make_pci(m, e) < 0))
        return -1;
    return fy_firmware_devices(m, e);
}

struct fy_device *fy_machine_device(struct fy_machine *m, const char *id)
{
    for (unsigned i = 0; i < m->device_count; i++)
        if (!strcmp(m->devices[i].id, id))
            return &m->devices[i];
    return NULL;
}

int fy_machine_list_devices(Ferry__Machine *desc, const struct fy_device *devices, unsigned count,
                            struct fy_err *e)
{
    desc->devices = calloc(count, sizeof *desc->devices);
    for (unsigned i = 0; desc->devices && i < count; i++) {
        Ferry__DeviceDescription *d = malloc(sizeof *d);
        if (!d)
            break;
        ferry__device_description__init(d);
        d->id = strdup(devices[i].id);
        d->type = strdup(devices[i].ops->type);
        d->version = devices[i].ops->version;
        desc->devices[desc->n_devices++] = d;
        if (!d->id || !d->type)
            break;
    }
    return desc->n_devices == count ? 0 : fy_fail(e, FY_ERESOURCE, "no memory for the list of devices");
}

void fy_machine_console_lock(struct fy_machine *m)
{
    fy_console_lock(&m->devices[DEV_CONSOLE]);
}

void fy_machine_console_unlock(struct fy_machine *m)
{
    fy_console_unlock(&m->devices[DEV_CONSOLE]);
}

size_t fy_machine_scrollback(struct fy_machine *m, uint64_t after, uint8_t *buf, size_t room,
                             uint64_t *position)
{
    return fy_console_scrollback(&m->devices[DEV_CONSOLE], after, buf, room, position);
}

size_t fy_machine_console_input(struct fy_machine *m, const uint8_t *buf, size_t len)
{
    if (m->vconsole && fy_virtio_console_ready(m->vconsole))
        return fy_virtio_console_input(m->vconsole, buf, len);
    return fy_serial_input(&m->devices[DEV_SERIAL], buf, len);
}

size_t fy_machine_console_room(struct fy_machine *m)
{
    if (m->vconsole && fy_virtio_console_ready(m->vconsole))
        return fy_virtio_console_input_room(m->vconsole);
    return fy_serial_input_room(&m->devices[DEV_SERIAL]);
}

int fy_machine_generation(struct fy_machine *m, uint8_t id[FY_VMGENID_BYTES], struct fy_err *e)
{
    struct fy_device *d = fy_machine_device(m, "vmgenid");
    if (!d)
        return fy_fail(e, FY_EUNSUPPORTED, "this guest has no generation ID");
    fy_vmgenid_get(d, id);
    return 0;
}

int fy_machine_new_generation(struct fy_machine *m, struct fy_err *e)
{
    struct fy_device *d = fy_machine_device(m, "vmgenid");
    if (!d)
        return fy_fail(e, FY_EUNSUPPORTED, "this guest has no generation ID");
    if (fy_vmgenid_change(d, &m->devices[DEV_PM], e) < 0)
        return -1;
    fy_vmclock_copied(fy_machine_device(m, "vmclock"));
    return 0;
}

void fy_machine_power_button(struct fy_machine *m)
{
    fy_pm_power_button(&m->devices[DEV_PM]);
}

struct fy_virtio *fy_machine_vsock(struct fy_machine *m)
{
    return m->vsock;
}

struct fy_virtio *fy_machine_balloon(struct fy_machine *m)
{
    return m->balloon;
}

const struct fy_device *fy_machine_nth_device(const struct fy_machine *m, unsigned i)
{
    return i < m->device_count ? &m->devices[i] : NULL;
}
