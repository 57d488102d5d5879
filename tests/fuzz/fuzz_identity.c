// SPDX-License-Identifier: Apache-2.0
/* The VM generation ID and VMClock, by the first byte of the input. */
#include "hv/dev/platform.h"
#include "tests/fuzz/device.h"

static struct fy_device pm;
static bool is_clock;

static void touch(struct fuzz_device *f, uint32_t op)
{
    uint64_t at = (is_clock ? FY_VMCLOCK_ADDRESS : FY_VMGENID_ADDRESS) + (op >> 16 & 0xfff);
    unsigned size = 1u << (op >> 12 & 3);
    switch (op >> 8 & 7) {
    case 0:
        if (is_clock)
            fy_vmclock_copied(&f->dev);
        else
            MUST(fy_vmgenid_change(&f->dev, &pm, NULL) == 0);
        break;
    case 1:
        if (f->dev.ops->resume)
            f->dev.ops->resume(f->dev.dev);
        break;
    case 2:
        fy_bus_write(f->bus, FY_SPACE_MMIO, at, size, op);
        break;
    default:
        fy_bus_read(f->bus, FY_SPACE_MMIO, at, size);
    }
}

const struct fuzz_loads fuzz_loads = {.head = 1,
                                      .counted = true,
                                      .kinds = 2,
                                      .kind = {{"vmgenid", &ferry__generation_id__descriptor, NULL},
                                               {"vmclock", &ferry__vm_clock__descriptor, NULL}}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t ports[] = {FY_PORT_GPE0};
    static const uint8_t first[FY_VMGENID_BYTES] = {1};
    struct fuzz_device f = {.ports = ports, .port_count = 1, .other = touch};
    if (!size)
        return 0;
    is_clock = fuzz_kind(data[0]) == 1;
    f.kind = is_clock;
    fuzz_device_init(&f);
    struct fy_bus *bus = f.bus;
    MUST(fy_pm_new(bus, &f.host, &pm, NULL) == 0);
    MUST(fy_pm_add_events(bus, &pm, NULL) == 0);
    MUST((is_clock ? fy_vmclock_new(bus, data[0] & 2, &f.dev, NULL)
                   : fy_vmgenid_new(bus, first, &f.dev, NULL)) == 0);
    fuzz_device_run(&f, data + 1, size - 1);
    pm.ops->free(pm.dev);
    return 0;
}
