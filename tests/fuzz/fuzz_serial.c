// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/platform.h"
#include "tests/fuzz/device.h"

static struct fy_gate *gate;

static void on_room(void *arg)
{
    fy_serial_output_room(&((struct fuzz_device *)arg)->dev);
}

static void input(struct fuzz_device *f, uint32_t op)
{
    if ((op >> 8 & 3) == 1) {
        fy_gate_hold(gate);
        return;
    }
    if ((op >> 8 & 15) == 2) {
        fy_gate_open(gate);
        return;
    }
    uint8_t buf[256];
    size_t room = fy_serial_input_room(&f->dev);
    size_t len = op >> 24;
    memset(buf, (int)(op >> 16), sizeof buf);
    size_t taken = fy_serial_input(&f->dev, buf, len);
    MUST(taken == (len < room ? len : room));
}

FUZZ_DEVICE_LOADS("serial", ferry__serial16550__descriptor);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t ports[] = {FY_PORT_SERIAL0};
    struct fuzz_device f = {.ports = ports, .port_count = 1, .other = input};
    struct fy_device console;
    struct fy_err e;
    fuzz_device_init(&f);
    gate = fy_gate_new(&e);
    MUST(gate);
    const struct fy_console_config config = {.gate = gate, .arg = &f, .room = on_room};
    MUST(fy_console_new(&config, &console, NULL) == 0);
    fuzz_console = &console;
    MUST(fy_serial_new(f.bus, &f.host, &f.dev, NULL) == 0);
    fuzz_device_run(&f, data, size);
    fuzz_console = NULL;
    fy_gate_discard(gate);
    console.ops->free(console.dev);
    fy_gate_free(gate);
    return 0;
}
