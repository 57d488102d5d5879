// SPDX-License-Identifier: Apache-2.0
/* GRUB on a disk image: the BIOS's without grub-install, which wants a block device. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/image.h"
#include "hv/base/io.h"

#define GRUB_PC "/usr/lib/grub/i386-pc"
#define CODE_END 0x1b8     /* of the code in the first sector; disk signature and partitions follow */
#define KERNEL_SECTOR 0x5c /* 8 bytes: where boot.img looks for core.img */
#define DRIVE_CHECK 0x66   /* 2 bytes: a jump past the check of DL; no-ops make it trust a BIOS less */
#define FIRST_LIST 0x1f4   /* in core.img's first sector: 8 bytes sector, 2 length, 2 segment */
#define CORE_LIMIT (512u << 10)

#define MODULES                                                                                              \
    "part_gpt", "ext2", "search", "search_fs_uuid", "normal", "configfile", "linux", "serial", "terminal",   \
        "echo", "test", "minicmd", "ls", "cat", "reboot", "halt", "gzio", "sleep"

static void put_le(uint8_t *at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

int image_grub_boot(uint8_t mbr[IMAGE_SECTOR], const uint8_t *boot, size_t len, uint64_t core,
                    struct fy_err *e)
{
    if (len != IMAGE_SECTOR || boot[510] != 0x55 || boot[511] != 0xaa || boot[0] != 0xeb)
        return fy_fail(e, FY_ECORRUPT, GRUB_PC "/boot.img is no boot sector");
    memcpy(mbr, boot, CODE_END);
    put_le(mbr + KERNEL_SECTOR, core, 8);
    mbr[DRIVE_CHECK] = mbr[DRIVE_CHECK + 1] = 0x90;
    mbr[510] = 0x55;
    mbr[511] = 0xaa;
    return 0;
}

int image_grub_core(uint8_t *image, size_t len, uint64_t core, struct fy_err *e)
{
    size_t sectors = (len + IMAGE_SECTOR - 1) / IMAGE_SECTOR;
    if (sectors < 2 || sectors > 0x8000)
        return fy_fail(e, FY_ECORRUPT, "GRUB's core image has %zu bytes", len);
    put_le(image + FIRST_LIST, core + 1, 8);
    put_le(image + FIRST_LIST + 8, sectors - 1, 2);
    return 0;
}

static int write_bios(const struct image_work *w, const char *disk, const uint8_t *boot, size_t boot_len,
                      uint8_t *core, size_t core_len, struct fy_err *e)
{
    uint8_t mbr[IMAGE_SECTOR];
    const uint64_t lba = IMAGE_BIOS_AT / IMAGE_SECTOR;
    if (core_len > IMAGE_BIOS_SIZE)
        return fy_fail(e, FY_ECORRUPT, "GRUB's core image does not fit its partition");
    int fd = openat(w->fd, disk, O_RDWR | O_CLOEXEC);
    int rc = -1;
    if (fd < 0 || fy_pread_all(fd, mbr, sizeof mbr, 0) < 0)
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot read the image");
    else if (image_grub_boot(mbr, boot, boot_len, lba, e) < 0 || image_grub_core(core, core_len, lba, e) < 0)
        rc = -1;
    else if (fy_pwrite_all(fd, core, core_len, IMAGE_BIOS_AT) < 0 ||
             fy_pwrite_all(fd, mbr, sizeof mbr, 0) < 0)
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot write the image");
    else
        rc = 0;
    fy_close(&fd);
    return rc;
}

static int bios(struct image_work *w, const char *disk, struct fy_err *e)
{
    static const char *const argv[] = {"grub-mkimage", "-O", "i386-pc",    "-o",       "core.img", "-c",
                                       "early.cfg",    "-p", "/boot/grub", "biosdisk", MODULES,    NULL};
    char *boot = NULL, *core = NULL;
    size_t boot_len = 0, core_len = 0;
    int rc = image_run(w, &(struct image_run){.argv = argv}, e);
    if (rc == 0)
        rc = fy_read_file(AT_FDCWD, GRUB_PC "/boot.img", IMAGE_SECTOR, &boot, &boot_len, e);
    if (rc == 0)
        rc = fy_read_file(w->fd, "core.img", CORE_LIMIT, &core, &core_len, e);
    if (rc == 0)
        rc = write_bios(w, disk, (uint8_t *)boot, boot_len, (uint8_t *)core, core_len, e);
    free(boot);
    free(core);
    return rc;
}

static int efi(struct image_work *w, const char *disk, struct fy_err *e)
{
    static const char *const argv[] = {"grub-mkimage", "-O", "x86_64-efi", "-o",  "BOOTX64.EFI", "-c",
                                       "early.cfg",    "-p", "/boot/grub", "fat", MODULES,       NULL};
    if (image_run(w, &(struct image_run){.argv = argv}, e) < 0 ||
        image_fat(w, disk, IMAGE_ESP_AT, IMAGE_ESP_SIZE, "ESP", e) < 0 ||
        image_fat_dir(w, disk, IMAGE_ESP_AT, "::/EFI", e) < 0 ||
        image_fat_dir(w, disk, IMAGE_ESP_AT, "::/EFI/BOOT", e) < 0 ||
        image_fat_copy(w, disk, IMAGE_ESP_AT, "BOOTX64.EFI", "::/EFI/BOOT/BOOTX64.EFI", e) < 0)
        return -1;
    return 0;
}

int image_grub_install(struct image_work *w, const char *disk, const char *uuid, struct fy_err *e)
{
    char early[256];
    int n = snprintf(early, sizeof early, "search.fs_uuid %s root\nset prefix=($root)/boot/grub\n", uuid);
    if (image_work_write(w, "early.cfg", early, (size_t)n, 0600, e) < 0)
        return -1;
    return bios(w, disk, e) < 0 ? -1 : efi(w, disk, e);
}
