// SPDX-License-Identifier: Apache-2.0
/* From packages to a disk: mmdebstrap packs a tree, mke2fs fills a file system with it inside the image file,
 * and partition table and boot loaders go around that. Nothing is mounted here. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/image.h"
#include "hv/base/io.h"

#define DISK "disk.img"
#define EXTRACT_LIMIT (512u << 20)

/* A system that boots, has a network and is pleasant enough to log in to. */
#define PACKAGES                                                                                             \
    "systemd-sysv,systemd-resolved,dbus,udev,kmod,initramfs-tools,zstd,login,passwd,procps,netbase,"         \
    "iproute2,"                                                                                              \
    "iputils-ping,ca-certificates,e2fsprogs,less,nano"

static const struct image_tool tools[] = {
    {"mmdebstrap", "mmdebstrap"},
    {"apt-get", "apt"},
    {"/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"},
    {"tar", "tar"},
    {"mke2fs", "e2fsprogs"},
    {"sfdisk", "fdisk"},
    {"mformat", "mtools"},
    {"grub-mkimage", "grub-common"},
    {"/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"},
    {"/usr/lib/grub/x86_64-efi/kernel.img", "grub-efi-amd64-bin"},
    {NULL, NULL},
};
static const struct image_tool mapping[] = {{"unshare", "util-linux"}, {"newuidmap", "uidmap"}, {NULL, NULL}};

/* What the setup script reads, as files of the work folder. */
static int write_answers(struct image_work *w, const struct image_spec *s, struct fy_err *e)
{
    char fstab[160], meta[160];
    uint8_t instance[8];
    char hex[2 * sizeof instance + 1];
    fy_random(instance, sizeof instance);
    fy_hex(instance, sizeof instance, hex);
    snprintf(fstab, sizeof fstab, "UUID=%s / ext4 errors=remount-ro 0 1\n", s->uuid);
    snprintf(meta, sizeof meta, "instance-id: iid-%s\nlocal-hostname: %s\n", hex, s->hostname);
    if (image_work_write(w, "setup", image_setup, (size_t)(image_setup_end - image_setup), 0600, e) < 0 ||
        image_work_write(w, "fstab", fstab, strlen(fstab), 0600, e) < 0 ||
        image_work_write(w, "hostname", s->hostname, strlen(s->hostname), 0600, e) < 0 ||
        image_work_write(w, "uuid", s->uuid, strlen(s->uuid), 0600, e) < 0 ||
        (*s->hash && image_work_write(w, "hash", s->hash, strlen(s->hash), 0600, e) < 0) ||
        (s->keys && image_work_write(w, "authorized_keys", s->keys, s->keys_len, 0600, e) < 0))
        return -1;
    if (!s->seed)
        return 0;
    bool script = !strncmp(s->seed, "#!", 2);
    if (image_work_write(w, script ? "script" : "user-data", s->seed, s->seed_len, 0600, e) < 0)
        return -1;
    return script ? 0 : image_work_write(w, "meta-data", meta, strlen(meta), 0600, e);
}

struct line {
    const char *argv[48];
    size_t n;
    char *owned[8];
    size_t owns;
};

static void add(struct line *l, const char *word)
{
    if (l->n < 47)
        l->argv[l->n++] = word;
}

static int add_text(struct line *l, const char *before, const char *text, struct fy_err *e)
{
    char *word = NULL;
    if (l->owns == 8 || asprintf(&word, "%s%s", before, text) < 0)
        return fy_fail(e, FY_ERESOURCE, "no memory");
    l->owned[l->owns++] = word;
    add(l, word);
    return 0;
}

static int install_line(struct line *l, const struct image_work *w, const struct image_spec *s, char *sources,
                        struct fy_err *e)
{
    static const char *const uploads[] = {
        "--customize-hook=upload setup /ferry-setup/setup",
        "--customize-hook=upload hostname /ferry-setup/hostname",
        "--customize-hook=upload uuid /ferry-setup/uuid",
        "--customize-hook=upload hash /ferry-setup/hash",
        "--customize-hook=upload authorized_keys /ferry-setup/authorized_keys",
        "--customize-hook=upload script /ferry-setup/script",
        "--customize-hook=upload user-data /ferry-setup/user-data",
        "--customize-hook=upload meta-data /ferry-setup/meta-data"};
    char name[32];
    add(l, "mmdebstrap");
    add(l, "--variant=minbase");
    add(l, "--format=tar");
    add(l, "--aptopt=Acquire::Languages \"none\"");
    add(l, "--include=" PACKAGES);
    if (add_text(l, "--include=", s->kernel, e) < 0 ||
        (s->packages && add_text(l, "--include=", s->packages, e) < 0))
        return -1;
    if (s->keys)
        add(l, "--include=openssh-server");
    if (s->seed && strncmp(s->seed, "#!", 2) != 0)
        add(l, "--include=cloud-init");
    /* The initramfs, made when the kernel is installed, takes its file system checker from fstab. */
    add(l, "--essential-hook=upload fstab /etc/fstab");
    add(l, "--customize-hook=mkdir -m 700 \"$1\"/ferry-setup");
    for (size_t i = 0; i < sizeof uploads / sizeof *uploads; i++) {
        sscanf(uploads[i], "--customize-hook=upload %31s", name);
        if (faccessat(w->fd, name, F_OK, 0) == 0)
            add(l, uploads[i]);
    }
    add(l, "--customize-hook=chroot \"$1\" sh /ferry-setup/setup");
    add(l, s->suite);
    add(l, "root.tar");
    for (char *line = strtok(sources, "\n"); line; line = strtok(NULL, "\n"))
        add(l, line);
    return 0;
}

static int install(struct image_work *w, const struct image_spec *s, struct fy_err *e)
{
    char sources[4096];
    struct line l = {0};
    if (image_apt_sources(w, s->suite, sources, sizeof sources, e) < 0)
        return -1;
    /* Root's tree is made in the folder, where the image's size was reckoned with; others need one that the
     * namespace's users can reach. */
    if (!w->mapped && (fchmod(w->fd, 0711) < 0 || setenv("TMPDIR", w->dir, 1) < 0))
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot use %s", w->dir);
    int rc = install_line(&l, w, s, sources, e);
    if (rc == 0)
        rc = image_run(w, &(struct image_run){.argv = l.argv}, e);
    for (size_t i = 0; i < l.owns; i++)
        free(l.owned[i]);
    return rc;
}

static uint64_t root_bytes(const struct image_spec *s)
{
    return s->size - IMAGE_ROOT_AT - IMAGE_TAIL;
}

/* Refuse before the long part what mke2fs would refuse after it, with a size that will do. */
static int check_size(struct image_work *w, const struct image_spec *s, struct fy_err *e)
{
    struct stat st;
    if (fstatat(w->fd, "root.tar", &st, 0) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "mmdebstrap left no tree");
    /* Inodes, journal and reserve. */
    uint64_t need = (uint64_t)st.st_size + (uint64_t)st.st_size / 8 + (UINT64_C(64) << 20);
    if (need <= root_bytes(s))
        return 0;
    return fy_fail(e, FY_EUSAGE, "the system needs more room: --size must be at least %" PRIu64 "M",
                   (need + IMAGE_ROOT_AT + IMAGE_TAIL) / (1u << 20) + 64);
}

static int unpack(struct image_work *w, struct fy_err *e)
{
    static const char *const mkdir_argv[] = {"mkdir", "tree", NULL};
    /* The kernel fills /dev itself, and in a user namespace no device can be made. */
    static const char *const argv[] = {
        "tar", "-x",   "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--exclude=./dev/*",
        "-C",  "tree", "-f", "root.tar",        NULL};
    if (image_run(w, &(struct image_run){.argv = mkdir_argv, .as_root = true}, e) < 0 ||
        image_run(w, &(struct image_run){.argv = argv, .as_root = true}, e) < 0)
        return -1;
    if (unlinkat(w->fd, "root.tar", 0) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "cannot remove the tree's archive");
    return 0;
}

static int make_root(struct image_work *w, const struct image_spec *s, struct fy_err *e)
{
    char options[64], blocks[32];
    snprintf(options, sizeof options, "offset=%" PRIu64 ",nodiscard,root_owner=0:0", IMAGE_ROOT_AT);
    snprintf(blocks, sizeof blocks, "%" PRIu64 "k", root_bytes(s) / 1024);
    const char *const argv[] = {"mke2fs", "-q", "-F", "-t",    "ext4", "-L",   "root", "-U",   s->uuid,
                                "-m",     "1",  "-E", options, "-d",   "tree", DISK,   blocks, NULL};
    int fd = openat(w->fd, DISK, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = fd < 0 ? -1 : ftruncate(fd, (off_t)s->size);
    if (rc < 0)
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make a file of %" PRIu64 " bytes", s->size);
    fy_close(&fd);
    if (rc < 0)
        return -1;
    rc = image_run(w, &(struct image_run){.argv = argv, .as_root = true}, e);
    /* Many small files need more than check_size reckons with. */
    if (rc < 0 && strstr(e->text, "ould not allocate"))
        return fy_fail(e, FY_EUSAGE, "the system does not fit: give it a larger --size");
    return rc;
}

static int partition(struct image_work *w, const struct image_spec *s, struct fy_err *e)
{
    static const char *const argv[] = {"sfdisk", "--quiet", "--no-reread", "--no-tell-kernel",
                                       "--wipe", "never",   DISK,          NULL};
    char script[512];
    snprintf(script, sizeof script,
             "label: gpt\nunit: sectors\nfirst-lba: %" PRIu64 "\n"
             "start=%" PRIu64 ", size=%" PRIu64 ", type=21686148-6449-6E6F-744E-656564454649, name=\"bios\"\n"
             "start=%" PRIu64 ", size=%" PRIu64 ", type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"esp\"\n"
             "start=%" PRIu64 ", size=%" PRIu64
             ", type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=\"root\"\n",
             IMAGE_BIOS_AT / IMAGE_SECTOR, IMAGE_BIOS_AT / IMAGE_SECTOR, IMAGE_BIOS_SIZE / IMAGE_SECTOR,
             IMAGE_ESP_AT / IMAGE_SECTOR, IMAGE_ESP_SIZE / IMAGE_SECTOR, IMAGE_ROOT_AT / IMAGE_SECTOR,
             root_bytes(s) / IMAGE_SECTOR);
    return image_run(w, &(struct image_run){.argv = argv, .input = script}, e);
}

/* The kernel's version, from the link /vmlinuz of the tree. */
static int kernel_release(const struct image_work *w, struct image_spec *s, struct fy_err *e)
{
    char to[256];
    ssize_t n = readlinkat(w->fd, "tree/vmlinuz", to, sizeof to - 1);
    if (n < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "the tree has no /vmlinuz");
    to[n] = 0;
    const char *version = strstr(to, "vmlinuz-");
    snprintf(s->release, sizeof s->release, "%s", version ? version + 8 : "");
    return 0;
}

static int extract(const struct image_work *w, const char *what, const char *release, struct fy_err *e)
{
    char path[256];
    char *data = NULL;
    size_t len = 0;
    snprintf(path, sizeof path, "tree/boot/%s-%s", what, release);
    if (fy_read_file(w->fd, path, EXTRACT_LIMIT, &data, &len, e) < 0)
        return -1;
    int rc = image_work_write(w, what, data, len, 0644, e);
    free(data);
    return rc;
}

/* NAME.vmlinuz, NAME.initrd, NAME.cmdline, and the image last: where it is, all is. */
static int publish(struct image_work *w, const struct image_spec *s, struct fy_err *e)
{
    static const struct {
        const char *file, *suffix;
    } parts[] = {{"vmlinuz", ".vmlinuz"}, {"initrd.img", ".initrd"}, {"cmdline", ".cmdline"}};
    char path[PATH_MAX];
    for (size_t i = 0; s->extract && i < 3; i++) {
        if (snprintf(path, sizeof path, "%s%s", s->path, parts[i].suffix) >= (int)sizeof path)
            return fy_fail(e, FY_EUSAGE, "the path is too long");
        if (image_work_publish(w, parts[i].file, path, e) < 0)
            return -1;
    }
    return image_work_publish(w, DISK, s->path, e);
}

static int build(struct image_work *w, struct image_spec *s, struct fy_err *e)
{
    struct stat st;
    if (write_answers(w, s, e) < 0)
        return -1;
    s->stage("installing packages");
    if (install(w, s, e) < 0 || check_size(w, s, e) < 0)
        return -1;
    s->stage("filling the file system");
    if (unpack(w, e) < 0 || make_root(w, s, e) < 0 || kernel_release(w, s, e) < 0)
        return -1;
    s->stage("partitions and boot loaders");
    if (partition(w, s, e) < 0 || image_grub_install(w, DISK, s->uuid, e) < 0)
        return -1;
    snprintf(s->cmdline, sizeof s->cmdline, "root=UUID=%s ro console=ttyS0,115200", s->uuid);
    if (s->extract &&
        (extract(w, "vmlinuz", s->release, e) < 0 || extract(w, "initrd.img", s->release, e) < 0 ||
         image_work_write(w, "cmdline", s->cmdline, strlen(s->cmdline), 0644, e) < 0))
        return -1;
    if (fstatat(w->fd, DISK, &st, 0) == 0)
        s->allocated = (uint64_t)st.st_blocks * 512;
    return publish(w, s, e);
}

int image_build(struct image_spec *s, struct fy_err *e)
{
    struct image_work w;
    uint8_t uuid[FY_UUID_LEN];
    if (!s->force && access(s->path, F_OK) == 0)
        return fy_fail(e, FY_EEXISTS, "%s is there already (--force replaces it)", s->path);
    fy_uuid_new(uuid);
    fy_uuid_format(uuid, s->uuid);
    if (image_work_begin(&w, s->path, s->verbose, e) < 0)
        return -1;
    int rc = image_need(tools, e);
    if (rc == 0 && w.mapped)
        rc = image_need(mapping, e);
    if (rc == 0)
        rc = build(&w, s, e);
    image_work_end(&w);
    return rc;
}
