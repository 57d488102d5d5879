// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "hv/vm/firmware.h"
#include "hv/vm/images.h"
#include "hv/vm/internal.h"
#include "hv/vm/load.h"

static int load(struct fy_machine *m, struct fy_boot *boot, struct fy_err *e)
{
    struct fy_images im;
    uint64_t rsdp = 0;
    int r = fy_images_open(m, &im, e);
    if (r == 0)
        r = fy_acpi_write(m->gmem, m->desc->revision, m->vcpus, &rsdp, e);
    struct fy_boot_images images = {
        .kernel = im.kernel,
        .kernel_len = im.kernel_len,
        .initrd = im.initrd,
        .initrd_len = im.initrd_len,
        .cmdline = m->desc->cmdline,
        .acpi_rsdp = rsdp,
    };
    if (r == 0)
        r = fy_load_kernel(m->gmem, &images, boot, e);
    fy_images_close(&im);
    return r;
}

bool fy_machine_has_images(const struct fy_machine *m)
{
    return m->kernel_fd >= 0 || m->desc->images || m->desc->firmware;
}

static int boot_kernel(struct fy_machine *m, struct fy_cpu_boot *cb, struct fy_err *e)
{
    struct fy_boot b;
    memset(&b, 0, sizeof b);
    if (load(m, &b, e) < 0)
        return fy_fail_prefix(e, "kernel");
    *cb = (struct fy_cpu_boot){
        .long_mode = b.long_mode,
        .rip = b.rip,
        .rsp = b.rsp,
        .rax = b.rax,
        .rbx = b.rbx,
        .rsi = b.rsi,
        .cr3 = b.cr3,
        .gdt_base = b.gdt_base,
        .gdt_limit = b.gdt_limit,
    };
    return 0;
}

int fy_machine_boot(struct fy_machine *m, struct fy_err *e)
{
    struct fy_cpu_boot cb;
    if (!fy_machine_has_images(m))
        return fy_fail(e, FY_EUNSUPPORTED, "this guest has no boot images here");
    /* Firmware places what is on the bus itself. */
    if (m->pci && !m->desc->firmware)
        fy_pci_assign(m->pci);
    if ((m->desc->firmware ? fy_firmware_boot(m, &cb, e) : boot_kernel(m, &cb, e)) < 0)
        return -1;
    for (unsigned i = 0; i < m->vcpus; i++)
        if (m->engine->ops->vcpu_reset(m->engine, i, i ? NULL : &cb, e) < 0)
            return -1;
    return 0;
}

int fy_machine_reset(struct fy_machine *m, struct fy_err *e)
{
    if (!fy_machine_has_images(m))
        return fy_fail(e, FY_EUNSUPPORTED, "reset asked; this guest has no boot images here");
    for (unsigned i = 0; i < m->device_count; i++)
        if (m->devices[i].ops->reset)
            m->devices[i].ops->reset(m->devices[i].dev);
    if (m->engine->ops->chips_reset(m->engine, e) < 0 || fy_machine_boot(m, e) < 0)
        return -1;
    pthread_mutex_lock(&m->lock);
    m->end = FY_END_NONE;
    m->report[0] = 0;
    pthread_mutex_unlock(&m->lock);
    return 0;
}
