// SPDX-License-Identifier: Apache-2.0
/* vmctl image create|seed */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "cli/image.h"
#include "hv/base/io.h"

#define INPUT_LIMIT (1u << 20)

enum { OPT_PASSWORD = 256, OPT_STDIN, OPT_KEY, OPT_SEED, OPT_HOSTNAME, OPT_KERNEL, OPT_EXTRACT, OPT_FORCE };

static const struct option create_options[] = {
    {"suite", required_argument, NULL, 's'},
    {"packages", required_argument, NULL, 'p'},
    {"size", required_argument, NULL, 'z'},
    {"seed", required_argument, NULL, OPT_SEED},
    {"password", required_argument, NULL, OPT_PASSWORD},
    {"password-stdin", no_argument, NULL, OPT_STDIN},
    {"ssh-key", required_argument, NULL, OPT_KEY},
    {"hostname", required_argument, NULL, OPT_HOSTNAME},
    {"kernel", required_argument, NULL, OPT_KERNEL},
    {"extract-kernel", no_argument, NULL, OPT_EXTRACT},
    {"force", no_argument, NULL, OPT_FORCE},
    {"verbose", no_argument, NULL, 'v'},
    {NULL, 0, NULL, 0},
};

static void stage(const char *what)
{
    fprintf(stderr, "vmctl: image create: %s\n", what);
}

/* Names of packages with what apt allows behind them, and nothing that a shell or an option parser would see.
 */
static bool are_packages(const char *text)
{
    return isalnum((unsigned char)*text) &&
           text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                             "0123456789+-.:=~/,")] == 0;
}

static bool is_hostname(const char *text)
{
    size_t n = strlen(text);
    return n && n < 64 &&
           text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")] == 0 &&
           text[0] != '-' && text[n - 1] != '-';
}

/* The image's file name up to the first dot, where that is a host name; else "debian". */
static void default_hostname(char out[64], const char *path)
{
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    snprintf(out, 64, "%.*s", (int)strcspn(base, "."), base);
    if (!is_hostname(out))
        snprintf(out, 64, "debian");
}

static int read_input(struct cli *c, const char *path, char **data, size_t *len)
{
    struct fy_err e;
    free(*data);
    *data = NULL;
    if (fy_read_file(AT_FDCWD, path, INPUT_LIMIT, data, len, &e) < 0)
        return cli_fail(c, FY_EUSAGE, "%s", e.text);
    return 0;
}

static int add_key(struct cli *c, struct image_spec *s, const char *path)
{
    char *key = NULL;
    size_t len = 0;
    int code = read_input(c, path, &key, &len);
    if (code)
        return code;
    if (strncmp(key, "ssh-", 4) != 0 && strncmp(key, "ecdsa-", 6) != 0 && strncmp(key, "sk-", 3) != 0) {
        free(key);
        return cli_fail(c, FY_EUSAGE, "%s is no public key (it begins like \"ssh-ed25519 AAAA\")", path);
    }
    char *all = realloc(s->keys, s->keys_len + len + 2);
    if (all) {
        memcpy(all + s->keys_len, key, len);
        s->keys_len += len;
        if (all[s->keys_len - 1] != '\n')
            all[s->keys_len++] = '\n';
        s->keys = all;
    }
    free(key);
    return all ? 0 : cli_fail(c, FY_ERESOURCE, "no memory");
}

static int hash_password(struct cli *c, struct image_spec *s, const char *password)
{
    struct fy_err e;
    if (!*password)
        return cli_fail(c, FY_EUSAGE, "the password is empty");
    return image_hash(password, s->hash, sizeof s->hash, &e) < 0 ? cli_fail(c, e.code, "%s", e.text) : 0;
}

static int seed_file(struct cli *c, struct image_spec *s, const char *path)
{
    int code = read_input(c, path, &s->seed, &s->seed_len);
    if (code == 0 && strncmp(s->seed, "#!", 2) != 0 && !image_is_user_data(s->seed))
        code = cli_fail(c, FY_EUSAGE,
                        "%s is neither a script (\"#!/bin/sh\", run when the image is made) nor cloud-init's "
                        "user-data (\"#cloud-config\", for the first boot)",
                        path);
    return code;
}

static int create_option(struct cli *c, struct image_spec *s, int o, bool *from_stdin)
{
    switch (o) {
    case 's':
        s->suite = optarg;
        if (strcmp(optarg, "bookworm") != 0 && strcmp(optarg, "trixie") != 0)
            return cli_fail(c, FY_EUSAGE, "--suite %s: bookworm or trixie", optarg);
        return 0;
    case 'p':
        s->packages = optarg;
        return are_packages(optarg) ? 0
                                    : cli_fail(c, FY_EUSAGE, "--packages %s: write it like curl,vim", optarg);
    case 'z':
        if (cli_parse_size(optarg, &s->size) < 0 || s->size < IMAGE_SIZE_MIN || s->size > IMAGE_SIZE_MAX)
            return cli_fail(c, FY_EUSAGE, "--size %s: 1G to 16T (write it like 4G)", optarg);
        s->size &= ~((1ull << 20) - 1);
        return 0;
    case OPT_SEED:
        return seed_file(c, s, optarg);
    case OPT_PASSWORD: {
        int code = hash_password(c, s, optarg);
        memset(optarg, '*', strlen(optarg)); /* what ps shows from here on */
        return code;
    }
    case OPT_STDIN:
        *from_stdin = true;
        return 0;
    case OPT_KEY:
        return add_key(c, s, optarg);
    case OPT_HOSTNAME:
        snprintf(s->hostname, sizeof s->hostname, "%s", optarg);
        return is_hostname(optarg)
                   ? 0
                   : cli_fail(c, FY_EUSAGE, "--hostname %s: letters, digits and hyphens, 63 at most", optarg);
    case OPT_KERNEL:
        s->kernel = optarg;
        return are_packages(optarg) ? 0 : cli_fail(c, FY_EUSAGE, "--kernel %s is no package's name", optarg);
    case OPT_EXTRACT:
        s->extract = true;
        return 0;
    case OPT_FORCE:
        s->force = true;
        return 0;
    default:
        s->verbose = true;
        return 0;
    }
}

static int authenticate(struct cli *c, struct image_spec *s, bool from_stdin)
{
    char password[256];
    struct fy_err e;
    if (!from_stdin && (*s->hash || s->keys))
        return 0;
    if (image_ask_password(from_stdin, password, sizeof password, &e) < 0)
        return cli_fail(c, e.code, "%s", e.text);
    int code = hash_password(c, s, password);
    explicit_bzero(password, sizeof password);
    return code;
}

static void created(const struct cli *c, const struct image_spec *s)
{
    char path[PATH_MAX];
    if (!c->json) {
        printf("%s\n", s->path);
        if (s->extract)
            printf("%s.vmlinuz\n%s.initrd\n%s.cmdline: %s\n", s->path, s->path, s->path, s->cmdline);
        return;
    }
    struct cli_json j = cli_json_begin(stdout);
    cli_json_string(&j, "image", s->path);
    cli_json_string(&j, "suite", s->suite);
    cli_json_u64(&j, "size", s->size);
    cli_json_u64(&j, "allocated", s->allocated);
    cli_json_string(&j, "hostname", s->hostname);
    cli_json_string(&j, "root_uuid", s->uuid);
    cli_json_string(&j, "kernel_release", s->release);
    cli_json_string(&j, "cmdline", s->cmdline);
    if (s->extract) {
        snprintf(path, sizeof path, "%s.vmlinuz", s->path);
        cli_json_string(&j, "kernel", path);
        snprintf(path, sizeof path, "%s.initrd", s->path);
        cli_json_string(&j, "initrd", path);
    }
    cli_json_end(&j);
}

static int create(struct cli *c)
{
    struct image_spec s = {
        .suite = "bookworm", .kernel = "linux-image-cloud-amd64", .size = 4ull << 30, .stage = stage};
    bool from_stdin = false;
    int code = 0, o;
    while (code == 0 && (o = cli_option(c, "s:p:v", create_options, &code)) != -1) {
        if (o == -2)
            break;
        code = create_option(c, &s, o, &from_stdin);
    }
    bool help = code == 0 && o == -2;
    if (code == 0 && !help)
        code = cli_operands(c, 1, "FILE [options]");
    if (code == 0 && !help)
        code = authenticate(c, &s, from_stdin);
    if (code == 0 && !help) {
        struct fy_err e;
        s.path = c->name;
        if (!*s.hostname)
            default_hostname(s.hostname, s.path);
        if (image_build(&s, &e) < 0)
            code = cli_fail(c, e.code, "%s", e.text);
        else
            created(c, &s);
    }
    free(s.keys);
    free(s.seed);
    return code;
}

static const struct cli_verb verbs[] = {
    {"create", create, "FILE [options]", "make a bootable Debian disk"},
    {"seed", image_seed_verb, "FILE --user-data FILE", "make a disk that cloud-init reads"},
    {NULL, NULL, NULL, NULL},
};

int verb_image(struct cli *c)
{
    c->argc--;
    c->argv++;
    return cli_run_verbs(c, verbs, "image");
}
