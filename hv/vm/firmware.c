// SPDX-License-Identifier: Apache-2.0
#include "hv/vm/firmware.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/dev/flash.h"
#include "hv/dev/fwcfg.h"
#include "hv/dev/platform.h"
#include "hv/vm/acpi.h"
#include "hv/vm/fwkernel.h"
#include "proto/wire.h"

#define LOW_COPY_MAX (128u << 10) /* below 1 MiB */
#define LOW_END 0x100000u
#define E820_BYTES 20
#define E820_RAM 1
#define E820_RESERVED 2

void fy_firmware_check(const Ferry__Machine *d, struct fy_err *why)
{
    const Ferry__Firmware *f = d->firmware;
    if (d->revision < 2)
        fy_reason_add(why, FY_EREFUSED, "machine revision %u has no firmware", d->revision);
    if (f->area_bytes == 0 || f->area_bytes % (2u << 20) || f->area_bytes > FY_FIRMWARE_AREA_MAX)
        fy_reason_add(why, FY_EREFUSED,
                      "a firmware area of %llu bytes: a multiple of 2 MiB, at most %llu MiB",
                      (unsigned long long)f->area_bytes, FY_FIRMWARE_AREA_MAX >> 20);
    else if (f->rom_bytes == 0 || (f->rom_bytes | f->nvram_bytes) % FY_PAGE_SIZE ||
             f->rom_bytes > f->area_bytes || f->nvram_bytes > f->area_bytes - f->rom_bytes)
        fy_reason_add(why, FY_EREFUSED,
                      "firmware of %llu bytes with %llu bytes of flash: whole pages that fit into %llu bytes",
                      (unsigned long long)f->rom_bytes, (unsigned long long)f->nvram_bytes,
                      (unsigned long long)f->area_bytes);
}

uint64_t fy_firmware_area(const Ferry__Machine *d)
{
    return d->firmware ? d->firmware->area_bytes : 0;
}

int fy_firmware_map(struct fy_machine *m, struct fy_err *e)
{
    const Ferry__Firmware *f = m->desc->firmware;
    return f ? fy_gmem_add_rom(m->gmem, f->area_bytes - f->rom_bytes, f->rom_bytes, e) : 0;
}

static size_t put_range(uint8_t *p, uint64_t base, uint64_t bytes, uint32_t type)
{
    fy_put64(p, base);
    fy_put64(p + 8, bytes);
    fy_put32(p + 16, type);
    return E820_BYTES;
}

/* RAM as it lies, without what firmware itself keeps of it. */
static int set_e820(struct fy_machine *m, struct fy_device *fw, struct fy_err *e)
{
    uint8_t table[(FY_SLOTS_MAX + 1) * E820_BYTES];
    size_t n = 0;
    for (unsigned i = 0; i < m->gmem->ram_slots; i++)
        n += put_range(table + n, m->gmem->slots[i].gpa, m->gmem->slots[i].bytes, E820_RAM);
    n += put_range(table + n, FY_ECAM_ADDRESS, FY_ECAM_BUSES << 20, E820_RESERVED);
    return fy_fwcfg_set_file(fw, "etc/e820", table, n, e);
}

/* Commands of the script by which firmware places tables and makes their pointers good (QEMU's published
 * interface "etc/table-loader": 128 bytes each, little endian). */
#define COMMAND_BYTES 128
#define COMMANDS_MAX 24
#define ALLOCATE 1
#define ADD_POINTER 2
#define ADD_CHECKSUM 3
#define ZONE_HIGH 1
#define ZONE_FSEG 2
#define NAME_BYTES 56
#define TABLES_FILE "etc/acpi/tables"
#define RSDP_FILE "etc/acpi/rsdp"

struct script {
    uint8_t bytes[COMMANDS_MAX * COMMAND_BYTES];
    unsigned count;
};

static uint8_t *add_command(struct script *s, uint32_t command, const char *file)
{
    unsigned i = s->count++;
    uint8_t *c = s->bytes + COMMAND_BYTES * FY_MIN(i, COMMANDS_MAX - 1u);
    fy_put32(c, command);
    memcpy(c + 4, file, strlen(file) + 1);
    return c + 4 + NAME_BYTES;
}

static void allocate(struct script *s, const char *file, uint32_t align, uint8_t zone)
{
    uint8_t *p = add_command(s, ALLOCATE, file);
    fy_put32(p, align);
    p[4] = zone;
}

/* The pointer in `file` is an offset in the tables until they have their place. */
static void add_pointer(struct script *s, const char *file, uint32_t at, uint8_t size)
{
    uint8_t *p = add_command(s, ADD_POINTER, file);
    memcpy(p, TABLES_FILE, sizeof TABLES_FILE);
    fy_put32(p + NAME_BYTES, at);
    p[NAME_BYTES + 4] = size;
}

static void add_checksum(struct script *s, const char *file, uint32_t at, uint32_t start, uint32_t len)
{
    uint8_t *p = add_command(s, ADD_CHECKSUM, file);
    fy_put32(p, at);
    fy_put32(p + 4, start);
    fy_put32(p + 8, len);
}

/* The byte is 0 before: one firmware subtracts from it, another writes over it what makes the sum 0 as it
 * stood. */
static void checksum_table(struct script *s, struct fy_acpi *t, uint32_t at)
{
    t->bytes[at + 9] = 0;
    add_checksum(s, TABLES_FILE, at + 9, at, fy_get32(t->bytes + at + 4));
}

static int set_acpi(struct fy_machine *m, struct fy_device *fw, struct fy_err *e)
{
    const struct fy_acpi_machine machine = {m->desc->revision, m->vcpus, m->gmem->slots[0].bytes};
    struct fy_acpi t;
    struct script s = {.count = 0};
    uint8_t rsdp[FY_ACPI_RSDP_BYTES];
    if (fy_acpi_build(&t, 0, &machine, e) < 0)
        return -1;
    memcpy(rsdp, t.bytes, sizeof rsdp);
    rsdp[8] = rsdp[32] = 0;          /* as in checksum_table */
    memset(t.bytes, 0, sizeof rsdp); /* only the one in its own file is the root */
    allocate(&s, RSDP_FILE, 16, ZONE_FSEG);
    allocate(&s, TABLES_FILE, 64, ZONE_HIGH);
    for (unsigned i = 0; i < t.pointers; i++)
        add_pointer(&s, TABLES_FILE, t.pointer[i].at, t.pointer[i].size);
    checksum_table(&s, &t, t.fadt);
    checksum_table(&s, &t, t.xsdt);
    add_pointer(&s, RSDP_FILE, 24, 8);
    add_checksum(&s, RSDP_FILE, 8, 0, 20);
    add_checksum(&s, RSDP_FILE, 32, 0, sizeof rsdp);
    if (s.count > COMMANDS_MAX)
        return fy_fail(e, FY_EFAIL, "the table loader's script has %u commands", s.count);
    return fy_fwcfg_set_file(fw, RSDP_FILE, rsdp, sizeof rsdp, e) < 0 ||
                   fy_fwcfg_set_file(fw, TABLES_FILE, t.bytes, t.used, e) < 0 ||
                   fy_fwcfg_set_file(fw, "etc/table-loader", s.bytes, s.count * COMMAND_BYTES, e) < 0
               ? -1
               : 0;
}

static int set_items(struct fy_machine *m, struct fy_device *fw, struct fy_err *e)
{
    uint8_t cpus[2], port[2];
    fy_put16(cpus, (uint16_t)m->vcpus);
    fy_put16(port, FY_PORT_SERIAL0);
    if (fy_fwcfg_set(fw, FY_FWCFG_NB_CPUS, cpus, sizeof cpus, e) < 0 ||
        fy_fwcfg_set(fw, FY_FWCFG_MAX_CPUS, cpus, sizeof cpus, e) < 0 || set_e820(m, fw, e) < 0 ||
        set_acpi(m, fw, e) < 0)
        return -1;
    /* There is no display: SeaBIOS is to show its screen at the serial port. */
    return fy_fwcfg_set_file(fw, "etc/sercon-port", port, sizeof port, e);
}

int fy_firmware_devices(struct fy_machine *m, struct fy_err *e)
{
    const Ferry__Firmware *f = m->desc->firmware;
    if (!f)
        return 0;
    struct fy_device *fw = &m->devices[m->device_count];
    if (fy_fwcfg_new(m->bus, &m->host, m->gmem, fw, e) < 0)
        return -1;
    m->device_count++;
    if (set_items(m, fw, e) < 0)
        return -1;
    if (!f->nvram_bytes)
        return 0;
    if (fy_flash_new(m->bus, &m->host, m->gmem, f->area_bytes - f->rom_bytes - f->nvram_bytes, f->nvram_bytes,
                     m->nvram_fd, &m->devices[m->device_count], e) < 0)
        return -1;
    m->device_count++;
    return 0;
}

int fy_firmware_load(struct fy_machine *m, int rom_fd, struct fy_err *e)
{
    const Ferry__Firmware *f = m->desc->firmware;
    struct stat st;
    uint64_t at = f->area_bytes - f->rom_bytes;
    uint8_t *p = fy_gmem_area(m->gmem, at, f->rom_bytes);
    if (rom_fd < 0)
        return fy_fail(e, FY_EUSAGE, "the description names firmware and none was given");
    if (fstat(rom_fd, &st) < 0 || (uint64_t)st.st_size != f->rom_bytes)
        return fy_fail(e, FY_ECORRUPT, "the firmware has %lld bytes, the description says %llu",
                       (long long)st.st_size, (unsigned long long)f->rom_bytes);
    if (!p || fy_pread_all(rom_fd, p, f->rom_bytes, 0) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "the firmware cannot be read");
    fy_gmem_area_mark(m->gmem, at, f->rom_bytes);
    return f->nvram_bytes ? fy_flash_read_file(fy_machine_device(m, "nvram"), e) : 0;
}

int fy_firmware_boot(struct fy_machine *m, struct fy_cpu_boot *boot, struct fy_err *e)
{
    const Ferry__Firmware *f = m->desc->firmware;
    uint64_t bytes = FY_MIN(f->rom_bytes, (uint64_t)LOW_COPY_MAX);
    const uint8_t *end = fy_gmem_area(m->gmem, f->area_bytes - bytes, bytes);
    *boot = (struct fy_cpu_boot){.at_reset = true};
    if (m->desc->images && fy_fwkernel_set(m, e) < 0)
        return fy_fail_prefix(e, "kernel");
    return fy_gmem_write(m->gmem, LOW_END - bytes, end, bytes, e);
}
