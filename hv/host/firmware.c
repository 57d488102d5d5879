// SPDX-License-Identifier: Apache-2.0
#include "hv/host/firmware.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/host/daemon.h"
#include "proto/wire.h"

#define AREA_UNIT (2ull << 20)
#define PAGE 4096u

/* Where Debian's packages put them. */
static const struct known {
    const char *name, *rom, *vars, *package;
} known[] = {
    {"bios", "/usr/share/seabios/bios-256k.bin", NULL, "seabios"},
    {"uefi", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf"},
};

static int open_known(const char *path, const struct known *k, struct fy_err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fy_fail(e, errno == ENOENT ? FY_ENOTFOUND : FY_EFAIL,
                "cannot open the %s firmware %s: %s (it is in Debian's package %s)", k->name, path,
                strerror(errno), k->package);
    return fd;
}

/* Its size in whole pages, or 0 with the cause. */
static uint64_t image_bytes(int fd, struct fy_err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size % PAGE ||
        (uint64_t)st.st_size > FY_FIRMWARE_AREA_MAX) {
        fy_fail(e, FY_EUSAGE, "a firmware image is a file of whole 4 KiB pages, at most %llu MiB",
                FY_FIRMWARE_AREA_MAX >> 20);
        return 0;
    }
    return (uint64_t)st.st_size;
}

static int measure(int rom, int vars, Ferry__Firmware *out, struct fy_err *e)
{
    out->rom_bytes = image_bytes(rom, e);
    out->nvram_bytes = vars >= 0 ? image_bytes(vars, e) : 0;
    if (!out->rom_bytes || (vars >= 0 && !out->nvram_bytes))
        return -1;
    out->area_bytes = FY_ALIGN_UP(out->rom_bytes + out->nvram_bytes, AREA_UNIT);
    if (out->area_bytes > FY_FIRMWARE_AREA_MAX)
        return fy_fail(e, FY_EUSAGE, "the firmware and its variables are over %llu MiB",
                       FY_FIRMWARE_AREA_MAX >> 20);
    return 0;
}

static const struct known *find(const char *name)
{
    for (size_t i = 0; i < FY_ARRAY_LEN(known); i++)
        if (!strcmp(known[i].name, name))
            return &known[i];
    return NULL;
}

bool fyd_firmware_known(const char *name)
{
    return find(name) != NULL;
}

int fyd_firmware_open(const char *name, int file_fd, Ferry__Firmware *out, struct fy_err *e)
{
    const struct known *k = file_fd < 0 ? find(name) : NULL;
    int vars = -1;
    ferry__firmware__init(out);
    if (file_fd < 0 && !k)
        return fy_fail(e, FY_EUSAGE, "firmware is bios, uefi or a file, not \"%s\"", name);
    out->kind = (char *)(uintptr_t)(k ? k->name : "file");
    int rom = k ? open_known(k->rom, k, e) : file_fd;
    if (rom >= 0 && k && k->vars && (vars = open_known(k->vars, k, e)) < 0)
        fy_close(&rom);
    if (rom >= 0 && measure(rom, vars, out, e) < 0)
        fy_close(&rom);
    fy_close(&vars);
    return rom;
}

/* A fresh file gets the variables that the firmware's package has for a new machine. */
static int copy_template(int dir, const char *name, const Ferry__Machine *m, struct fy_err *e)
{
    const struct known *k = find(m->firmware->kind);
    if (!k || !k->vars)
        return fy_fail(e, FY_EFAIL, "there are no variables to begin with for firmware %s",
                       m->firmware->kind);
    int from = open_known(k->vars, k, e);
    if (from < 0)
        return -1;
    size_t len = image_bytes(from, e) == m->firmware->nvram_bytes ? m->firmware->nvram_bytes : 0;
    uint8_t *buf = len ? malloc(len) : NULL;
    int r = -1;
    if (!len)
        fy_fail(e, FY_EFAIL, "%s has changed its size", k->vars);
    else if (!buf || fy_pread_all(from, buf, len, 0) < 0)
        fy_fail(e, FY_ERESOURCE, "cannot read %s", k->vars);
    else
        r = fy_write_file_durable(dir, name, buf, len, 0600, e);
    free(buf);
    fy_close(&from);
    return r;
}

static int open_in(int dir, const Ferry__Machine *m, bool incoming, struct fy_err *e)
{
    struct stat st;
    int fd = openat(dir, m->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (incoming ? O_CREAT : 0), 0600);
    if (fd < 0 && errno == ENOENT) {
        if (copy_template(dir, m->name, m, e) < 0)
            return -1;
        fd = openat(dir, m->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    }
    if (fd < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot open the file of the firmware's variables");
    bool sized = !incoming || ftruncate(fd, (off_t)m->firmware->nvram_bytes) == 0;
    if (!sized || fstat(fd, &st) < 0 || (uint64_t)st.st_size != m->firmware->nvram_bytes) {
        fy_close(&fd);
        return fy_fail(
            e, FY_ECORRUPT,
            "nvram/%s, the file of its firmware's variables, is not %llu bytes long as this firmware "
            "wants it (remove it to begin with new ones)",
            m->name, (unsigned long long)m->firmware->nvram_bytes);
    }
    return fd;
}

int fyd_nvram_open(struct fyd *d, const Ferry__Machine *m, bool incoming, struct fy_err *e)
{
    if (mkdirat(d->rootfd, "nvram", 0700) < 0 && errno != EEXIST)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make folder nvram in %s", d->root);
    int dir = openat(d->rootfd, "nvram", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot open folder nvram in %s", d->root);
    int fd = open_in(dir, m, incoming, e);
    fy_close(&dir);
    return fd;
}

uint64_t fyd_memory_file_bytes(const Ferry__Machine *m)
{
    const Ferry__Firmware *f = m->firmware;
    const Ferry__BootImages *b = m->images;
    if (f && (!f->area_bytes || f->area_bytes % AREA_UNIT || f->area_bytes > FY_FIRMWARE_AREA_MAX ||
              f->nvram_bytes > f->area_bytes))
        return 0;
    if (b && (!b->area_bytes || b->area_bytes % AREA_UNIT || b->area_bytes > FY_IMAGES_AREA_MAX))
        return 0;
    return m->memory_bytes + (f ? f->area_bytes : 0) + (b ? b->area_bytes : 0);
}

static uint64_t file_bytes(int fd)
{
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 ? (uint64_t)st.st_size : 0;
}

bool fyd_images_measure(int kernel_fd, int initrd_fd, Ferry__BootImages *out)
{
    ferry__boot_images__init(out);
    out->kernel_bytes = file_bytes(kernel_fd);
    out->initrd_bytes = file_bytes(initrd_fd);
    if (!out->kernel_bytes || (initrd_fd >= 0 && !out->initrd_bytes) ||
        out->kernel_bytes > FY_IMAGES_AREA_MAX || out->initrd_bytes > FY_IMAGES_AREA_MAX)
        return false;
    out->area_bytes = FY_ALIGN_UP(FY_ALIGN_UP(out->kernel_bytes, PAGE) + out->initrd_bytes, AREA_UNIT);
    return out->area_bytes <= FY_IMAGES_AREA_MAX;
}
