// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/device.h"

static void use(struct fuzz_device *f, uint32_t op)
{
    static uint8_t buf[FY_CONSOLE_SCROLLBACK + 100];
    size_t len = op >> 16;
    if (op & 8) {
        memset(buf, (int)(op >> 8), sizeof buf);
        fy_console_put(&f->dev, buf, len * 2 < sizeof buf ? len * 2 : len);
    } else {
        uint64_t position;
        fy_console_lock(&f->dev);
        MUST(fy_console_scrollback(&f->dev, op & 4 ? op : 0, buf, len, &position) <= len);
        fy_console_unlock(&f->dev);
    }
}

FUZZ_DEVICE_LOADS("console", ferry__console__descriptor);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_device f = {.other = use};
    fuzz_device_init(&f);
    const struct fy_console_config config = {.gate = NULL};
    MUST(fy_console_new(&config, &f.dev, NULL) == 0);
    fuzz_device_run(&f, data, size);
    return 0;
}
