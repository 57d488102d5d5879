// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/platform.h"
#include "tests/fuzz/device.h"

static void press(struct fuzz_device *f, uint32_t op)
{
    if (op & 0x100)
        fy_pm_event(&f->dev, op >> 9 & 7);
    else
        fy_pm_power_button(&f->dev);
}

FUZZ_DEVICE_LOADS("pm", ferry__power_management__descriptor);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t ports[] = {FY_PORT_PM1_EVENT, FY_PORT_PM1_CONTROL,   FY_PORT_PM_TIMER,
                                     FY_PORT_RESET,     FY_PORT_I8042_COMMAND, FY_PORT_GPE0};
    struct fuzz_device f = {.ports = ports, .port_count = 6, .other = press};
    fuzz_device_init(&f);
    MUST(fy_pm_new(f.bus, &f.host, &f.dev, NULL) == 0);
    MUST(fy_pm_add_events(f.bus, &f.dev, NULL) == 0);
    fuzz_device_run(&f, data, size);
    return 0;
}
