// SPDX-License-Identifier: Apache-2.0
/* Disk images made from Debian's packages, without a daemon, loop devices or (with user namespaces) root. One
 * thread. */
#ifndef FERRY_CLI_IMAGE_H
#define FERRY_CLI_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/err.h"
#include "hv/base/hex.h"

#define IMAGE_SECTOR 512u

/* Where things are on the disk, in bytes. Both GRUBs live outside the root file system: core.img in the
 * BIOS-boot partition, BOOTX64.EFI in the EFI system partition. */
#define IMAGE_BIOS_AT (UINT64_C(1) << 20)
#define IMAGE_BIOS_SIZE (UINT64_C(1) << 20)
#define IMAGE_ESP_AT (UINT64_C(2) << 20)
#define IMAGE_ESP_SIZE (UINT64_C(64) << 20)
#define IMAGE_ROOT_AT (UINT64_C(66) << 20)
#define IMAGE_TAIL (UINT64_C(1) << 20) /* the backup partition table */
#define IMAGE_SIZE_MIN (UINT64_C(1) << 30)
#define IMAGE_SIZE_MAX (UINT64_C(1) << 44)

/* A folder beside the result in which everything is made, the tools that are run there, and what they say. */
struct image_work {
    char dir[4096]; /* absolute; "" once removed */
    int fd;         /* of the folder */
    int parent;     /* of the folder that the result goes to */
    int log;        /* what the tools wrote */
    bool verbose;   /* their output goes to stderr */
    bool mapped;    /* not root: what must look owned by root runs in a user namespace */
};

/* Make the folder beside `path`, catch SIGINT, SIGTERM and SIGHUP until image_work_end. 0 or -1. */
int image_work_begin(struct image_work *w, const char *path, bool verbose, struct fy_err *e);
/* Remove the folder with all that is in it. */
void image_work_end(struct image_work *w);
/* Write a file of the folder. 0 or -1. */
int image_work_write(const struct image_work *w, const char *name, const void *data, size_t len, mode_t mode,
                     struct fy_err *e);
/* Make folder/name durable and give it its place `path`, whose folder is that of image_work_begin. 0 or -1.
 */
int image_work_publish(const struct image_work *w, const char *name, const char *path, struct fy_err *e);

struct image_run {
    const char *const *argv; /* ends with NULL; found in PATH and the folders of system tools */
    const char *input;       /* its standard input, or NULL for none */
    bool as_root;            /* sees itself as root (a user namespace where vmctl is not) */
};
/* Run a tool in the folder to its end. -1 with the end of its output in the error, with FY_ECANCELLED when a
 * signal came, with FY_ERESOURCE when the disk is full. */
int image_run(struct image_work *w, const struct image_run *r, struct fy_err *e);

struct image_tool {
    const char *file;    /* a program, or an absolute path */
    const char *package; /* Debian's */
};
/* Every tool of a list (which ends with a NULL file) is there, or an error names the packages that lack. */
int image_need(const struct image_tool *tools, struct fy_err *e);

/* GRUB's first sector for LBA 0: code of boot.img, told that core.img begins at LBA `core`; the partition
 * table and signature of `mbr` stay. 0, or FY_ECORRUPT when boot.img is none. Source:
 * grub-core/boot/i386/pc/boot.S (kernel_sector, boot_drive_check) and GNU GRUB manual, "Images". */
int image_grub_boot(uint8_t mbr[IMAGE_SECTOR], const uint8_t *boot, size_t len, uint64_t core,
                    struct fy_err *e);
/* core.img in memory is told that it lies at LBA `core` in one piece. 0, or FY_ECORRUPT.
 * Source: grub-core/boot/i386/pc/diskboot.S (firstlist: sector, length, segment, in the sector's end). */
int image_grub_core(uint8_t *image, size_t len, uint64_t core, struct fy_err *e);
/* Both loaders, into `disk` in the folder. uuid: of the root file system. 0 or -1. */
int image_grub_install(struct image_work *w, const char *disk, const char *uuid, struct fy_err *e);

/* One line a source for mmdebstrap ("deb URI SUITE main"), from what apt-get indextargets printed
 * (IMAGE_TARGETS): the archive, its updates and its security updates, for another suite of the archive where
 * apt has not got `suite`. In `out`, each followed by a newline. 0 or FY_ENOTFOUND. */
#define IMAGE_TARGETS "$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
int image_sources(const char *targets, const char *suite, char *out, size_t size, struct fy_err *e);
/* The same from this host's apt. */
int image_apt_sources(struct image_work *w, const char *suite, char *out, size_t size, struct fy_err *e);

/* A FAT file system of `bytes` at `offset` of folder/disk, labelled; then files into it. 0 or -1. */
int image_fat(struct image_work *w, const char *disk, uint64_t offset, uint64_t bytes, const char *label,
              struct fy_err *e);
int image_fat_dir(struct image_work *w, const char *disk, uint64_t offset, const char *dir, struct fy_err *e);
int image_fat_copy(struct image_work *w, const char *disk, uint64_t offset, const char *file, const char *to,
                   struct fy_err *e);

/* A word that cloud-init takes as user-data begins it. */
bool image_is_user_data(const char *text);

/* The password's hash as /etc/shadow has it, into out. 0 or -1. */
int image_hash(const char *password, char *out, size_t size, struct fy_err *e);
/* A line from standard input; without echo and twice when that is a terminal. 0 or -1. */
int image_ask_password(bool from_stdin, char *out, size_t size, struct fy_err *e);

struct image_spec {
    const char *path;
    const char *suite;
    const char *packages; /* "A,B" or NULL */
    const char *kernel;   /* package */
    char hostname[64];
    uint64_t size;
    char hash[256]; /* of root's password, "" for none */
    char *keys;     /* authorized_keys, or NULL */
    size_t keys_len;
    char *seed; /* a script or user-data, or NULL */
    size_t seed_len;
    bool extract, force, verbose;
    void (*stage)(const char *what);
    /* out */
    char uuid[FY_UUID_TEXT]; /* of the root file system */
    char cmdline[128];       /* for a kernel that is started without GRUB */
    char release[128];       /* of the kernel */
    uint64_t allocated;      /* bytes on this disk */
};
/* Make the image. On error nothing is left. 0 or -1. */
int image_build(struct image_spec *s, struct fy_err *e);

struct cli;
/* vmctl image seed */
int image_seed_verb(struct cli *c);

/* What runs in the chroot (cli/image-setup.sh). */
extern const char image_setup[];
extern const char image_setup_end[];

#endif
