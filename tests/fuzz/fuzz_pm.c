// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/platform.h"
#include "tests/fuzz/device.h"

static void press(struct fuzz_device *f, uint32_t op)
{
    (void)op;
    fy_pm_power_button(&f->dev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t ports[] = {FY_PORT_PM1_EVENT, FY_PORT_PM1_CONTROL, FY_PORT_PM_TIMER, FY_PORT_RESET,
                                     FY_PORT_I8042_COMMAND};
    struct fuzz_device f = {.ports = ports, .port_count = 5, .other = press};
    fuzz_device_init(&f);
    MUST(fy_pm_new(f.bus, &f.host, &f.dev, NULL) == 0);
    fuzz_device_run(&f, data, size);
    return 0;
}
