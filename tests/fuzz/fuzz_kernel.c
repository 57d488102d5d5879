// SPDX-License-Identifier: Apache-2.0
/* Kernel loaders: the input is {u8 length of the command line, u8 initrd in 4 KiB, command line, kernel}. */
#include <string.h>

#include "hv/vm/load.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/memory_fixture.h"

#define RAM (8u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fy_gmem *m;
    static uint8_t initrd[256 * 4096];
    char cmdline[256] = "";
    struct fy_err e = {0};
    struct fy_boot boot;
    if (!m)
        m = fx_memory(RAM, &e);
    MUST(m);
    if (size < 2)
        return 0;
    size_t n = data[0] < size - 2 ? data[0] : size - 2;
    memcpy(cmdline, data + 2, n);
    struct fy_boot_images images = {.initrd = initrd,
                                    .initrd_len = data[1] * 4096u,
                                    .cmdline = cmdline,
                                    .kernel = data + 2 + n,
                                    .kernel_len = size - 2 - n,
                                    .acpi_rsdp = 0xe0000};
    if (fy_load_kernel(m, &images, &boot, &e)) {
        MUST(e.code && e.text[0]);
        return 0;
    }
    /* what the first vCPU is given lies in RAM */
    MUST(fy_gmem_at(m, boot.rip, 1));
    MUST(!boot.long_mode || (fy_gmem_at(m, boot.cr3, 4096) && fy_gmem_at(m, boot.gdt_base, boot.gdt_limit)));
    MUST(boot.long_mode ? fy_gmem_at(m, boot.rsi, 4096) != NULL : fy_gmem_at(m, boot.rbx, 56) != NULL);
    return 0;
}
