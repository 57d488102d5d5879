// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/platform.h"
#include "tests/fuzz/device.h"

FUZZ_DEVICE_LOADS("rtc", ferry__rtc__descriptor);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t ports[] = {FY_PORT_RTC};
    struct fuzz_device f = {.ports = ports, .port_count = 1};
    fuzz_device_init(&f);
    MUST(fy_rtc_new(f.bus, &f.host, 5ull << 30, &f.dev, NULL) == 0);
    fuzz_device_run(&f, data, size);
    return 0;
}
