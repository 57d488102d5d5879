// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "hv/vm/firmware.h"
#include "hv/vm/internal.h"
#include "hv/vm/load.h"

struct image {
    void *p;
    size_t len;
};

static int map_image(int fd, const char *what, struct image *im, struct fy_err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "%s", what);
    if (!S_ISREG(st.st_mode) || st.st_size <= 0)
        return fy_fail(e, FY_ECORRUPT, "%s: not a file with something in it", what);
    im->len = (size_t)st.st_size;
    im->p = mmap(NULL, im->len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (im->p == MAP_FAILED) {
        im->p = NULL;
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot map the %s", what);
    }
    return 0;
}

static void unmap_image(struct image *im)
{
    if (im->p)
        munmap(im->p, im->len);
}

static int load(struct fy_machine *m, struct fy_boot *boot, struct fy_err *e)
{
    struct image kernel = {0}, initrd = {0};
    uint64_t rsdp = 0;
    int r = map_image(m->kernel_fd, "kernel", &kernel, e);
    if (r == 0 && m->initrd_fd >= 0)
        r = map_image(m->initrd_fd, "initrd", &initrd, e);
    if (r == 0)
        r = fy_acpi_write(m->gmem, m->desc->revision, m->vcpus, &rsdp, e);
    struct fy_boot_images images = {
        .kernel = kernel.p,
        .kernel_len = kernel.len,
        .initrd = initrd.p,
        .initrd_len = initrd.len,
        .cmdline = m->desc->cmdline,
        .acpi_rsdp = rsdp,
    };
    if (r == 0)
        r = fy_load_kernel(m->gmem, &images, boot, e);
    unmap_image(&kernel);
    unmap_image(&initrd);
    return r;
}

bool fy_machine_has_images(const struct fy_machine *m)
{
    return m->kernel_fd >= 0 || m->desc->firmware;
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
