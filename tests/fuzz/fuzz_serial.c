// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/platform.h"
#include "tests/fuzz/device.h"

static void input(struct fuzz_device *f, uint32_t op)
{
    uint8_t buf[256];
    size_t room = fy_serial_input_room(&f->dev);
    size_t len = op >> 24;
    memset(buf, (int)(op >> 16), sizeof buf);
    size_t taken = fy_serial_input(&f->dev, buf, len);
    MUST(taken == (len < room ? len : room));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t ports[] = {FY_PORT_SERIAL0};
    struct fuzz_device f = {.ports = ports, .port_count = 1, .other = input};
    fuzz_device_init(&f);
    MUST(fy_serial_new(f.bus, &f.host, &f.dev, NULL) == 0);
    fuzz_device_run(&f, data, size);
    return 0;
}
