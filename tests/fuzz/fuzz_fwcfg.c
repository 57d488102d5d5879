// SPDX-License-Identifier: Apache-2.0
/* fw_cfg by ports and by DMA: the access structures lie in memory that the input fills. */
#include "hv/dev/fwcfg.h"
#include "hv/dev/platform.h"
#include "tests/fuzz/device.h"
#include "tests/unit/memory_fixture.h"

static struct fy_gmem *memory;

/* An access structure with the operation's bits, then its doorbell. */
static void access_by_dma(struct fuzz_device *f, uint32_t op)
{
    uint8_t a[16] = {(uint8_t)(op >> 24 & 1), (uint8_t)(op >> 16), 0, (uint8_t)(op >> 8 & 31)};
    a[7] = (uint8_t)(op >> 11);
    a[6] = (uint8_t)(op >> 26 & 1);
    a[4] = op >> 27 & 1 ? 0xff : 0;
    a[13] = (uint8_t)(op >> 20);
    a[8] = op >> 28 & 1;
    fy_gmem_write(memory, 0x1ff8 + (op & 8), a, sizeof a, NULL);
    fy_bus_write(f->bus, FY_SPACE_PORT, FY_PORT_FWCFG_DMA + 4, 4, __builtin_bswap32(0x1ff8 + (op & 8)));
}

FUZZ_DEVICE_LOADS("fwcfg", ferry__fw_cfg__descriptor);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t ports[] = {FY_PORT_FWCFG, FY_PORT_FWCFG_DMA};
    struct fuzz_device f = {.ports = ports, .port_count = 2, .other = access_by_dma};
    if (!memory)
        memory = fx_memory(2u << 20, NULL);
    MUST(memory);
    fuzz_device_init(&f);
    MUST(fy_fwcfg_new(f.bus, &f.host, memory, &f.dev, NULL) == 0);
    MUST(fy_fwcfg_set_file(&f.dev, "etc/one", data, size < 300 ? size : 300, NULL) == 0);
    fuzz_device_run(&f, data, size);
    return 0;
}
