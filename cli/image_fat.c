// SPDX-License-Identifier: Apache-2.0
/* FAT file systems in plain files, by mtools. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/image.h"

/* mtools' name of a file system inside a file. */
struct drive {
    char name[64];
};

static struct drive drive(const char *disk, uint64_t offset)
{
    struct drive d;
    snprintf(d.name, sizeof d.name, "%s@@%" PRIu64, disk, offset);
    return d;
}

int image_fat(struct image_work *w, const char *disk, uint64_t offset, uint64_t bytes, const char *label,
              struct fy_err *e)
{
    struct drive d = drive(disk, offset);
    char sectors[24];
    snprintf(sectors, sizeof sectors, "%" PRIu64, bytes / IMAGE_SECTOR);
    const char *const argv[] = {"mformat", "-i", d.name, "-T",  sectors, "-h", "64",
                                "-s",      "32", "-v",   label, "::",    NULL};
    return image_run(w, &(struct image_run){.argv = argv}, e);
}

int image_fat_dir(struct image_work *w, const char *disk, uint64_t offset, const char *dir, struct fy_err *e)
{
    struct drive d = drive(disk, offset);
    const char *const argv[] = {"mmd", "-i", d.name, dir, NULL};
    return image_run(w, &(struct image_run){.argv = argv}, e);
}

int image_fat_copy(struct image_work *w, const char *disk, uint64_t offset, const char *file, const char *to,
                   struct fy_err *e)
{
    struct drive d = drive(disk, offset);
    const char *const argv[] = {"mcopy", "-i", d.name, file, to, NULL};
    return image_run(w, &(struct image_run){.argv = argv}, e);
}
