// SPDX-License-Identifier: Apache-2.0
/* vmctl image seed: a disk from which cloud-init takes a guest's settings at its first boot (NoCloud: a FAT
 * file system labelled cidata with the files user-data, meta-data and maybe network-config). Source:
 * cloud-init's documentation, "NoCloud". */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/image.h"
#include "hv/base/io.h"

#define SEED_BYTES (8ull << 20)
#define INPUT_LIMIT (1u << 20)
#define DISK "seed.img"

static const struct image_tool tools[] = {{"mformat", "mtools"}, {"mcopy", "mtools"}, {NULL, NULL}};

bool image_is_user_data(const char *text)
{
    static const char *const heads[] = {"#cloud-config", "#!",
                                        "#include",      "#cloud-boothook",
                                        "#part-handler", "Content-Type:",
                                        "MIME-Version:", "## template: jinja"};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (!strncmp(text, heads[i], strlen(heads[i])))
            return true;
    return false;
}

struct seed {
    const char *path;
    const char *user, *meta, *network; /* files, or NULL */
    bool force;
};

/* One file of the seed: `from`, or `text` where that is NULL. */
static int put_file(struct image_work *w, const char *name, const char *from, const char *text,
                    struct fy_err *e)
{
    char to[32];
    char *data = NULL;
    size_t len = 0;
    if (from && fy_read_file(AT_FDCWD, from, INPUT_LIMIT, &data, &len, e) < 0)
        return -1;
    if (from && !strcmp(name, "user-data") && !image_is_user_data(data)) {
        free(data);
        return fy_fail(e, FY_EUSAGE,
                       "%s is no user-data: its first line must be #cloud-config, or a script's #!", from);
    }
    snprintf(to, sizeof to, "::/%s", name);
    int rc = image_work_write(w, name, from ? data : text, from ? len : strlen(text), 0600, e);
    free(data);
    return rc < 0 ? -1 : image_fat_copy(w, DISK, 0, name, to, e);
}

static int fill(struct image_work *w, const struct seed *s, struct fy_err *e)
{
    char meta[64];
    uint8_t instance[8];
    char hex[2 * sizeof instance + 1];
    fy_random(instance, sizeof instance);
    fy_hex(instance, sizeof instance, hex);
    snprintf(meta, sizeof meta, "instance-id: iid-%s\n", hex);
    int fd = openat(w->fd, DISK, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = fd < 0 ? -1 : ftruncate(fd, (off_t)SEED_BYTES);
    if (rc < 0)
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make %s", DISK);
    fy_close(&fd);
    if (rc < 0 || image_fat(w, DISK, 0, SEED_BYTES, "cidata", e) < 0 ||
        put_file(w, "user-data", s->user, NULL, e) < 0 || put_file(w, "meta-data", s->meta, meta, e) < 0)
        return -1;
    if (s->network && put_file(w, "network-config", s->network, NULL, e) < 0)
        return -1;
    return image_work_publish(w, DISK, s->path, e);
}

static int make(const struct seed *s, struct fy_err *e)
{
    struct image_work w;
    if (!s->force && access(s->path, F_OK) == 0)
        return fy_fail(e, FY_EEXISTS, "%s is there already (--force replaces it)", s->path);
    if (image_work_begin(&w, s->path, false, e) < 0)
        return -1;
    int rc = image_need(tools, e) < 0 ? -1 : fill(&w, s, e);
    image_work_end(&w);
    return rc;
}

int image_seed_verb(struct cli *c)
{
    static const struct option longs[] = {{"user-data", required_argument, NULL, 'u'},
                                          {"meta-data", required_argument, NULL, 'm'},
                                          {"network-config", required_argument, NULL, 'n'},
                                          {"force", no_argument, NULL, 'f'},
                                          {NULL, 0, NULL, 0}};
    struct seed s = {0};
    struct fy_err e;
    int code = 0, o;
    while ((o = cli_option(c, "u:m:n:f", longs, &code)) != -1) {
        if (o == -2)
            return code;
        if (o == 'u')
            s.user = optarg;
        else if (o == 'm')
            s.meta = optarg;
        else if (o == 'n')
            s.network = optarg;
        else
            s.force = true;
    }
    if ((code = cli_operands(c, 1, "FILE --user-data FILE [options]")) != 0)
        return code;
    if (!s.user)
        return cli_fail(c, FY_EUSAGE, "no user-data is given (--user-data FILE)");
    s.path = c->name;
    if (make(&s, &e) < 0)
        return cli_fail(c, e.code, "%s", e.text);
    if (c->json) {
        struct cli_json j = cli_json_begin(stdout);
        cli_json_string(&j, "seed", s.path);
        cli_json_end(&j);
    } else {
        printf("%s\n", s.path);
    }
    return 0;
}
