// SPDX-License-Identifier: Apache-2.0
/* The flash of firmware's variables, by accesses of any width over its whole length. */
#include "hv/dev/flash.h"
#include "tests/fuzz/device.h"
#include "tests/unit/memory_fixture.h"

#define AREA (2u << 20)
#define BYTES 0x3000u

static void access_flash(struct fuzz_device *f, uint32_t op)
{
    uint64_t gpa = 0x100000000ull - AREA + (op >> 8) % (BYTES + 16);
    unsigned size = 1u << (op >> 3 & 3);
    static const uint8_t commands[] = {0x10, 0x20, 0xd0, 0x50, 0x70, 0x90, 0x98, 0xff};
    if (op >> 30)
        fy_bus_write(f->bus, FY_SPACE_MMIO, gpa, op >> 31 ? 1 : size, commands[op >> 24 & 7]);
    else
        fy_bus_read(f->bus, FY_SPACE_MMIO, gpa, size);
}

FUZZ_DEVICE_LOADS("flash", ferry__flash__descriptor);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fy_gmem *memory;
    struct fuzz_device f = {.other = access_flash};
    if (!memory)
        memory = fx_memory_area(2u << 20, AREA, NULL);
    MUST(memory);
    *fy_gmem_area(memory, BYTES, 1) = 0x77;
    fuzz_device_init(&f);
    MUST(fy_flash_new(f.bus, &f.host, memory, 0, BYTES, -1, &f.dev, NULL) == 0);
    fuzz_device_run(&f, data, size);
    MUST(*fy_gmem_area(memory, BYTES, 1) == 0x77);
    return 0;
}
