// SPDX-License-Identifier: Apache-2.0
/* The header of a kernel that firmware starts: the input is {u8 length of the command line, u8 initrd in
 * 64 KiB, u16 length of the kernel in sectors (0: what there is), command line, beginning of the kernel}. */
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/fwcfg.h"
#include "hv/vm/bzimage.h"
#include "hv/vm/fwkernel.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/memory_fixture.h"

#define RAM (64ull << 20)
#define IMAGES (64ull << 20)
#define HEAD 4u
#define LOW 0x100000u
#define TOP (2u << 20)

static struct fy_machine m;
static struct fy_bus *bus;
static Ferry__BootImages images;
static Ferry__Machine desc;
static uint8_t *kernel;

static void make(void)
{
    struct fy_err e;
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    MUST(fd >= 0 && ftruncate(fd, (off_t)(RAM + IMAGES)) == 0);
    MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    m.gmem = fy_gmem_open_area(fd, fy_dup(fd), RAM, 0, IMAGES, false, &e);
    bus = fy_bus_new(&e);
    MUST(m.gmem && bus && fy_fwcfg_new(bus, &m.host, m.gmem, &m.devices[0], &e) == 0);
    m.device_count = 1;
    ferry__machine__init(&desc);
    ferry__boot_images__init(&images);
    images.area_bytes = IMAGES;
    desc.images = &images;
    m.desc = &desc;
    kernel = fy_gmem_images(m.gmem, 0, IMAGES);
    MUST(kernel);
}

static void read_item(uint16_t key, uint8_t *to, size_t len)
{
    fy_bus_write(bus, FY_SPACE_PORT, FY_PORT_FWCFG, 2, key);
    for (size_t i = 0; i < len; i++)
        to[i] = (uint8_t)fy_bus_read(bus, FY_SPACE_PORT, FY_PORT_FWCFG + 1, 1);
}

static uint32_t item(uint16_t key)
{
    uint8_t v[4];
    read_item(key, v, sizeof v);
    return fy_get32(v);
}

/* The items agree with each other and with memory: nothing that is put somewhere overlaps something else. */
static void must_fit(void)
{
    uint8_t header[HDR_END];
    uint64_t setup = item(FY_FWCFG_SETUP_SIZE), at = item(FY_FWCFG_INITRD_ADDR);
    uint64_t bytes = item(FY_FWCFG_INITRD_SIZE);
    MUST(setup >= 1024 && setup <= 65 * 512 && setup + item(FY_FWCFG_KERNEL_SIZE) == images.kernel_bytes);
    MUST(item(FY_FWCFG_SETUP_ADDR) + setup <= item(FY_FWCFG_CMDLINE_ADDR));
    MUST(item(FY_FWCFG_CMDLINE_ADDR) + item(FY_FWCFG_CMDLINE_SIZE) <= 0xa0000);
    MUST(item(FY_FWCFG_CMDLINE_SIZE) == strlen(desc.cmdline) + 1 && bytes == images.initrd_bytes);
    read_item(FY_FWCFG_SETUP_DATA, header, sizeof header);
    MUST(fy_get32(header + HDR_RAMDISK_IMAGE) == at && fy_get32(header + HDR_RAMDISK_SIZE) == bytes);
    MUST(item(FY_FWCFG_KERNEL_DATA) << 24 == (uint32_t)kernel[setup] << 24);
    if (!bytes)
        return;
    uint64_t from = FY_MAX((uint64_t)LOW, fy_get64(header + HDR_PREF_ADDRESS));
    MUST(at % 4096 == 0 && at >= from + fy_get32(header + HDR_INIT_SIZE));
    MUST(at + bytes <= RAM - TOP && at + bytes - 1 <= fy_get32(header + HDR_INITRD_ADDR_MAX));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static size_t dirty;
    char cmdline[256] = "";
    struct fy_err e = {0};
    if (!kernel)
        make();
    if (size < HEAD)
        return 0;
    size_t n = FY_MIN((size_t)data[0], size - HEAD);
    memcpy(cmdline, data + HEAD, n);
    desc.cmdline = cmdline;
    size_t len = size - HEAD - n;
    memset(kernel, 0, dirty);
    memcpy(kernel, data + HEAD + n, len);
    dirty = len;
    images.kernel_bytes = fy_get16(data + 2) ? fy_get16(data + 2) * 512u : len;
    images.initrd_bytes = data[1] * 65536u;
    if (!images.kernel_bytes || images.kernel_bytes > IMAGES ||
        images.initrd_bytes > IMAGES - FY_ALIGN_UP(images.kernel_bytes, 4096))
        return 0; /* refused with the description: images.c */
    if (fy_fwkernel_set(&m, &e) < 0)
        MUST(e.code && e.text[0]);
    else
        must_fit();
    MUST(!memcmp(kernel, data + HEAD + n, len)); /* what is kept stays as it is */
    return 0;
}
