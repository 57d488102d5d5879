// SPDX-License-Identifier: Apache-2.0
/* ACPI tables (ACPI Specification 6.4, chapter 5). The DSDT is compiled from dsdt.asl, the PCI bus of
 * revision 2 from pci.asl, its generation ID from vmgen.asl; everything that depends on the number of vCPUs
 * is written here. */
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/platform.h"
#include "hv/vm/acpi.h"
#include "hv/vm/dsdt.hex"
#include "hv/vm/load_private.h"
#include "hv/vm/lowmem.h"
#include "hv/vm/pci.hex"
#include "hv/vm/vmgen.hex"
#include "proto/wire.h"

#define OEM_ID "FERRY "
#define OEM_TABLE_ID "FERRYREV"
#define SDT_HEADER 36

#define GAS_SYSTEM_IO 1
#define FADT_LENGTH 276
#define FADT_WBINVD 0x1u
#define FADT_PROC_C1 0x4u
#define FADT_NO_SLEEP_BUTTON 0x20u
#define FADT_NO_FIXED_RTC 0x40u
#define FADT_RESET_REGISTER 0x400u
#define FADT_HEADLESS 0x1000u
#define BOOT_LEGACY_DEVICES 0x1
#define BOOT_NO_VGA 0x4

#define MADT_PCAT_COMPAT 1
#define ISO_LEVEL_HIGH 0x000d

/* Tables are put together here and copied to the guest in one piece, or by its firmware, which then has to
 * know of the pointers in them. */
struct area {
    struct fy_acpi *a;
    uint64_t base; /* guest-physical address of the first byte */
};

static uint64_t gpa_of(const struct area *a, long offset)
{
    return a->base + (uint64_t)offset;
}

/* A pointer to the table at `to`, as the `size` bytes at offset `at`. */
static int put_pointer(struct area *a, size_t at, unsigned size, long to, struct fy_err *e)
{
    struct fy_acpi *t = a->a;
    if (t->pointers == FY_ARRAY_LEN(t->pointer))
        return fy_fail(e, FY_ERESOURCE, "ACPI: too many pointers");
    t->pointer[t->pointers].at = (uint32_t)at;
    t->pointer[t->pointers++].size = (uint8_t)size;
    if (size == 8)
        fy_put64(t->bytes + at, gpa_of(a, to));
    else
        fy_put32(t->bytes + at, (uint32_t)gpa_of(a, to));
    return 0;
}

/* Room for a table of len bytes at its alignment; zeroed. -1 when the area is full. */
static long take(struct area *a, size_t len, struct fy_err *e)
{
    size_t at = FY_ALIGN_UP(a->a->used, 64);
    if (!fy_range_ok(at, len, sizeof a->a->bytes))
        return fy_fail(e, FY_ERESOURCE, "ACPI tables do not fit into %u bytes", FY_LOW_ACPI_BYTES);
    a->a->used = at + len;
    return (long)at;
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + p[i]);
    return (uint8_t)-sum;
}

static void sdt_header(uint8_t *t, const char *signature, size_t len, uint8_t revision)
{
    memcpy(t, signature, 4);
    fy_put32(t + 4, (uint32_t)len);
    t[8] = revision;
    memcpy(t + 10, OEM_ID, 6);
    memcpy(t + 16, OEM_TABLE_ID, 8);
    fy_put32(t + 24, 1);
    memcpy(t + 28, "FERY", 4);
    fy_put32(t + 32, 1);
}

static void sdt_finish(uint8_t *t)
{
    t[9] = 0;
    t[9] = checksum(t, fy_get32(t + 4));
}

/* Generic Address Structure of a port. */
static void put_gas(uint8_t *p, unsigned bits, uint64_t port)
{
    p[0] = GAS_SYSTEM_IO;
    p[1] = (uint8_t)bits;
    p[2] = 0;
    p[3] = bits == 8 ? 1 : bits == 16 ? 2 : 3; /* access size */
    fy_put64(p + 4, port);
}

static long write_fadt(struct area *a, unsigned revision, long facs, long dsdt, struct fy_err *e)
{
    long at = take(a, FADT_LENGTH, e);
    if (at < 0)
        return -1;
    uint8_t *t = a->a->bytes + at;
    sdt_header(t, "FACP", FADT_LENGTH, 6);
    t[131] = 4; /* minor version */
    if (put_pointer(a, (size_t)at + 36, 4, facs, e) < 0 || put_pointer(a, (size_t)at + 40, 4, dsdt, e) < 0 ||
        put_pointer(a, (size_t)at + 140, 8, dsdt, e) < 0) /* FIRMWARE_CTRL is set: X_FIRMWARE_CTRL stays 0 */
        return -1;
    fy_put16(t + 46, FY_GSI_SCI);
    fy_put32(t + 56, FY_PORT_PM1_EVENT);
    fy_put32(t + 64, FY_PORT_PM1_CONTROL);
    fy_put32(t + 76, FY_PORT_PM_TIMER);
    t[88] = 4; /* PM1_EVT_LEN, PM1_CNT_LEN, PM_TMR_LEN */
    t[89] = 2;
    t[91] = 4;
    fy_put16(t + 96, 0xffff); /* no C2, no C3 */
    fy_put16(t + 98, 0xffff);
    t[108] = 0x32; /* century register */
    fy_put16(t + 109, BOOT_LEGACY_DEVICES | BOOT_NO_VGA);
    fy_put32(t + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_FIXED_RTC |
                          FADT_RESET_REGISTER | FADT_HEADLESS);
    put_gas(t + 116, 8, FY_PORT_RESET);
    t[128] = FY_RESET_VALUE;
    put_gas(t + 148, 32, FY_PORT_PM1_EVENT);
    put_gas(t + 172, 16, FY_PORT_PM1_CONTROL);
    put_gas(t + 208, 32, FY_PORT_PM_TIMER);
    if (revision >= 2) {
        fy_put32(t + 80, FY_PORT_GPE0);
        t[92] = 2;
        put_gas(t + 220, 16, FY_PORT_GPE0);
        t[223] = 1; /* by bytes */
    }
    memcpy(t + 268, "FERRYHV\0", 8);
    sdt_finish(t);
    return at;
}

static long write_facs(struct area *a, struct fy_err *e)
{
    long at = take(a, 64, e);
    if (at < 0)
        return -1;
    uint8_t *t = a->a->bytes + at;
    memcpy(t, "FACS", 4);
    fy_put32(t + 4, 64);
    t[32] = 2; /* version */
    return at;
}

static long write_madt(struct area *a, unsigned vcpus, struct fy_err *e)
{
    size_t len = SDT_HEADER + 8 + 8 * (size_t)vcpus + 12 + 10 + 6;
    long at = take(a, len, e);
    if (at < 0)
        return -1;
    uint8_t *t = a->a->bytes + at;
    sdt_header(t, "APIC", len, 5);
    fy_put32(t + 36, FY_LAPIC_ADDRESS);
    fy_put32(t + 40, MADT_PCAT_COMPAT);
    uint8_t *p = t + 44;
    for (unsigned i = 0; i < vcpus; i++, p += 8) {
        p[1] = 8; /* type 0: processor local APIC */
        p[2] = (uint8_t)i;
        p[3] = (uint8_t)i;
        fy_put32(p + 4, 1);
    }
    p[0] = 1; /* IO APIC */
    p[1] = 12;
    p[2] = (uint8_t)vcpus;
    fy_put32(p + 4, FY_IOAPIC_ADDRESS);
    p += 12;
    /* no override for IRQ 0: KVM's default routing puts the PIT at pin 0 */
    p[0] = 2;
    p[1] = 10;
    p[3] = FY_GSI_SCI;
    fy_put32(p + 4, FY_GSI_SCI);
    fy_put16(p + 8, ISO_LEVEL_HIGH);
    p += 10;
    p[0] = 4; /* NMI at LINT1 of every processor */
    p[1] = 6;
    p[2] = 0xff;
    p[5] = 1;
    sdt_finish(t);
    return at;
}

/* A table that iasl has made. */
static long write_aml(struct area *a, const unsigned char *aml, size_t len, struct fy_err *e)
{
    long at = take(a, len, e);
    if (at < 0)
        return -1;
    memcpy(a->a->bytes + at, aml, len);
    return at;
}

/* Where ECAM is (PCI Firmware Specification 3.2, section 4.1.2). */
static long write_mcfg(struct area *a, struct fy_err *e)
{
    long at = take(a, SDT_HEADER + 8 + 16, e);
    if (at < 0)
        return -1;
    uint8_t *t = a->a->bytes + at;
    sdt_header(t, "MCFG", SDT_HEADER + 8 + 16, 1);
    fy_put64(t + 44, FY_ECAM_ADDRESS);
    t[55] = FY_ECAM_BUSES - 1;
    sdt_finish(t);
    return at;
}

/* Scope (\_SB) with a processor device per vCPU, in AML (ACPI 6.4 section 20.2). */
static long write_ssdt(struct area *a, unsigned vcpus, struct fy_err *e)
{
    static const uint8_t device[] = {0x5b, 0x82, 28,   'C', '0', '0', '0', 0x08, '_', 'H',
                                     'I',  'D',  0x0d, 'A', 'C', 'P', 'I', '0',  '0', '0',
                                     '7',  0,    0x08, '_', 'U', 'I', 'D', 0x0a, 0};
    size_t scope = 2 + 5 + sizeof device * vcpus; /* two bytes of length, "\_SB_", the devices */
    long at = take(a, SDT_HEADER + 1 + scope, e);
    if (at < 0)
        return -1;
    uint8_t *t = a->a->bytes + at;
    sdt_header(t, "SSDT", SDT_HEADER + 1 + scope, 2);
    uint8_t *p = t + SDT_HEADER;
    *p++ = 0x10; /* ScopeOp; PkgLength of two bytes: low nibble, then bits 4.. */
    *p++ = (uint8_t)(0x40 | (scope & 15));
    *p++ = (uint8_t)(scope >> 4);
    memcpy(p, "\\_SB_", 5);
    p += 5;
    for (unsigned i = 0; i < vcpus; i++, p += sizeof device) {
        static const char hex[] = "0123456789ABCDEF";
        memcpy(p, device, sizeof device);
        p[2] = sizeof device - 2;
        p[5] = (uint8_t)hex[i >> 4];
        p[6] = (uint8_t)hex[i & 15];
        p[sizeof device - 1] = (uint8_t)i;
    }
    sdt_finish(t);
    return at;
}

static void write_rsdp(uint8_t *t, uint64_t xsdt)
{
    memcpy(t, "RSD PTR ", 8);
    memcpy(t + 9, OEM_ID, 6);
    t[15] = 2; /* revision */
    fy_put32(t + 20, 36);
    fy_put64(t + 24, xsdt);
    t[8] = checksum(t, 20);
    t[32] = checksum(t, 36);
}

/* The PCI bus's table, told where its first memory window begins: a DWord address space descriptor (ACPI 6.4,
 * section 6.4.3.5.2). */
static long write_pci(struct area *a, uint64_t low_ram_end, struct fy_err *e)
{
    static const uint8_t window[14] = {0x87, 0x17, 0, 0, 0x0c, 0x01, 0, 0, 0, 0, 0, 0, 0, 0x80};
    uint64_t begin = FY_MAX((uint64_t)FY_PCI_WINDOW, low_ram_end);
    long at = write_aml(a, pci_aml_code, sizeof pci_aml_code, e);
    if (at < 0)
        return -1;
    uint8_t *t = a->a->bytes + at;
    uint8_t *p = memmem(t, sizeof pci_aml_code, window, sizeof window);
    if (!p || !fy_range_ok((uint64_t)(p - t), 26, sizeof pci_aml_code))
        return fy_fail(e, FY_EFAIL, "ACPI: the PCI table has no memory window");
    fy_put32(p + 10, (uint32_t)begin);
    fy_put32(p + 22, (uint32_t)(FY_ECAM_ADDRESS - begin));
    sdt_finish(t);
    return at;
}

static long write_xsdt(struct area *a, const long *listed, size_t n, struct fy_err *e)
{
    size_t len = SDT_HEADER + 8 * n;
    long at = take(a, len, e);
    if (at < 0)
        return -1;
    uint8_t *t = a->a->bytes + at;
    sdt_header(t, "XSDT", len, 1);
    for (size_t i = 0; i < n; i++)
        if (listed[i] < 0 || put_pointer(a, (size_t)at + SDT_HEADER + 8 * i, 8, listed[i], e) < 0)
            return -1;
    sdt_finish(t);
    return at;
}

int fy_acpi_build(struct fy_acpi *t, uint64_t base, const struct fy_acpi_machine *machine, struct fy_err *e)
{
    unsigned vcpus = machine->vcpus;
    if (!vcpus || vcpus > FY_VCPUS_MAX)
        return fy_fail(e, FY_EUSAGE, "ACPI: %u vCPUs, must be 1 to %d", vcpus, FY_VCPUS_MAX);
    memset(t, 0, sizeof *t);
    struct area a = {.a = t, .base = base};
    long root = take(&a, FY_ACPI_RSDP_BYTES, e);
    long facs = write_facs(&a, e);
    long dsdt = write_aml(&a, dsdt_aml_code, sizeof dsdt_aml_code, e);
    long listed[6] = {0, write_madt(&a, vcpus, e), write_ssdt(&a, vcpus, e)};
    size_t n = 3;
    if (machine->revision >= 2) {
        listed[n++] = write_mcfg(&a, e);
        listed[n++] = write_pci(&a, machine->low_ram_end, e);
        listed[n++] = write_aml(&a, vmgen_aml_code, sizeof vmgen_aml_code, e);
    }
    if (root < 0 || facs < 0 || dsdt < 0)
        return -1;
    listed[0] = write_fadt(&a, machine->revision, facs, dsdt, e);
    long xsdt = write_xsdt(&a, listed, n, e);
    if (xsdt < 0)
        return -1;
    t->fadt = (uint32_t)listed[0];
    t->xsdt = (uint32_t)xsdt;
    write_rsdp(t->bytes + root, gpa_of(&a, xsdt));
    return 0;
}

int fy_acpi_write(struct fy_gmem *m, unsigned revision, unsigned vcpus, uint64_t *rsdp, struct fy_err *e)
{
    const struct fy_acpi_machine machine = {revision, vcpus, fy_low_ram_end(m)};
    struct fy_acpi t;
    if (fy_acpi_build(&t, FY_LOW_ACPI, &machine, e) < 0)
        return -1;
    if (fy_gmem_write(m, FY_LOW_ACPI, t.bytes, t.used, e))
        return fy_fail_prefix(e, "ACPI tables");
    *rsdp = FY_LOW_ACPI;
    return 0;
}
