// SPDX-License-Identifier: Apache-2.0
/* The settings of a definition, and values put into it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "hv/define/define.h"

#define MIB (UINT64_C(1) << 20)
#define TIB (UINT64_C(1) << 40)

static const struct fy_def_key keys[] = {
    {"memory", FY_DEF_SIZE, 2 * MIB, TIB, 2 * MIB, NULL, "memory_bytes"},
    {"cpus", FY_DEF_NUMBER, 1, 64, 0, NULL, "vcpus"},
    {"kernel", FY_DEF_PATH, 0, 0, 0, NULL, NULL},
    {"initrd", FY_DEF_PATH, 0, 0, 0, NULL, NULL},
    {"append", FY_DEF_STRING, 0, 0, 0, NULL, "cmdline"},
    {"firmware", FY_DEF_STRING, 0, 0, 0, NULL, "firmware"},
    {"cpu-model", FY_DEF_STRING, 0, 0, 0, NULL, "cpu_model"},
    {"engine", FY_DEF_STRING, 0, 0, 0, NULL, "engine"},
    {"prealloc", FY_DEF_BOOL, 0, 0, 0, NULL, "prealloc"},
    {"hugepages", FY_DEF_BOOL, 0, 0, 0, NULL, "hugepages"},
    {"debug-exit", FY_DEF_BOOL, 0, 0, 0, NULL, "debug_exit"},
    {"dirty-ring", FY_DEF_NUMBER, 1024, 65536, 0, NULL, "dirty_ring"},
    {"no-rng", FY_DEF_BOOL, 0, 0, 0, NULL, "no_rng"},
    {"virtio-console", FY_DEF_BOOL, 0, 0, 0, NULL, "virtio_console"},
    {"vsock", FY_DEF_NUMBER, 3, UINT32_MAX - 1, 0, NULL, "vsock_cid"},
    {"disks", FY_DEF_PATHS, 0, 0, 0, NULL, "disks"},
    {"nets", FY_DEF_LIST, 0, 0, 0, NULL, "nics"},
    {"autostart", FY_DEF_BOOL, 0, 0, 0, NULL, NULL},
    {"restart", FY_DEF_ENUM, 0, 0, 0, "no|on-crash", NULL},
};
_Static_assert(sizeof keys / sizeof *keys <= FY_DEF_KEYS_MAX, "struct fy_def has room for every row");

const struct fy_def_key *fy_def_keys(size_t *count)
{
    *count = sizeof keys / sizeof *keys;
    return keys;
}

int fy_def_find(const char *name)
{
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(keys[i].name, name))
            return (int)i;
    return -1;
}

void fy_def_unset(struct fy_def *def, int key)
{
    struct fy_def_value *v = &def->values[key];
    free(v->text);
    for (size_t i = 0; i < v->count; i++)
        free(v->items[i]);
    free(v->items);
    *v = (struct fy_def_value){0};
}

void fy_def_free(struct fy_def *def)
{
    for (size_t i = 0; i < FY_DEF_KEYS_MAX; i++)
        fy_def_unset(def, (int)i);
    def->name[0] = 0;
}

/* The length of the UTF-8 sequence at p, 0 when it is none (RFC 3629, section 4). */
static size_t sequence(const unsigned char *p, size_t left)
{
    size_t n = *p < 0x80                 ? 1
               : *p >= 0xc2 && *p < 0xe0 ? 2
               : *p >= 0xe0 && *p < 0xf0 ? 3
               : *p >= 0xf0 && *p < 0xf5 ? 4
                                         : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

bool fy_def_text_ok(const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text;
    for (size_t i = 0; i < len;) {
        size_t n = sequence(p + i, len - i);
        /* C0 and C1 controls, and what YAML itself does not carry. */
        if (n == 0 || p[i] < 0x20 || p[i] == 0x7f || (p[i] == 0xc2 && p[i + 1] < 0xa0))
            return false;
        if (n == 3 && p[i] == 0xef &&
            ((p[i + 1] == 0xbf && p[i + 2] >= 0xbe) || (p[i + 1] == 0xbb && p[i + 2] == 0xbf)))
            return false;
        i += n;
    }
    return true;
}

static int parse_number(const char *text, uint64_t *out)
{
    *out = 0;
    if (!*text)
        return -1;
    for (; *text >= '0' && *text <= '9'; text++)
        if (__builtin_mul_overflow(*out, UINT64_C(10), out) ||
            __builtin_add_overflow(*out, (uint64_t)(*text - '0'), out))
            return -1;
    return *text ? -1 : 0;
}

static int parse_size(const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    char digits[24];
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n >= sizeof digits)
        return -1;
    memcpy(digits, text, n);
    digits[n] = 0;
    if (parse_number(digits, out) < 0)
        return -1;
    text += n;
    if (!*text)
        return 0;
    const char *u = strchr(units, *text >= 'a' ? *text - 'a' + 'A' : *text);
    if (!u || (text[1] && strcasecmp(text + 1, "ib") != 0 && strcasecmp(text + 1, "b") != 0))
        return -1;
    return __builtin_mul_overflow(*out, UINT64_C(1) << (10 * (u - units + 1)), out) ? -1 : 0;
}

static int parse_bool(const char *text, uint64_t *out)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcasecmp(text, words[i])) {
            *out = i % 2;
            return 0;
        }
    return -1;
}

static bool is_word(const char *words, const char *text)
{
    size_t len = strlen(text);
    for (const char *p = words; *p;) {
        size_t n = strcspn(p, "|");
        if (n == len && !memcmp(p, text, n))
            return true;
        p += n + (p[n] == '|');
    }
    return false;
}

/* What a size or number may be, for people. */
static int out_of_range(const struct fy_def_key *k, const char *text, struct fy_err *e)
{
    if (k->type == FY_DEF_NUMBER)
        return fy_fail(e, FY_EUSAGE, "%s: %.64s is no whole number from %" PRIu64 " to %" PRIu64, k->name,
                       text, k->min, k->max);
    return fy_fail(e, FY_EUSAGE,
                   "%s: %.64s is no size from %" PRIu64 "M to %" PRIu64 "G%s (write it like 512M or 2G)",
                   k->name, text, k->min >> 20, k->max >> 30, k->step ? " in steps of 2M" : "");
}

static int put_text(struct fy_def_value *v, const struct fy_def_key *k, const char *text, struct fy_err *e)
{
    size_t len = strlen(text);
    if (len > FY_DEF_STRING_MAX || !fy_def_text_ok(text, len))
        return fy_fail(e, FY_EUSAGE, "%s: a text has at most %u bytes of UTF-8 and no control characters",
                       k->name, FY_DEF_STRING_MAX);
    if (len == 0 && k->type != FY_DEF_STRING)
        return fy_fail(e, FY_EUSAGE, "%s: the text is empty", k->name);
    char *copy = strdup(text);
    if (!copy)
        return fy_fail(e, FY_ERESOURCE, "no memory for %s", k->name);
    if (k->type != FY_DEF_LIST && k->type != FY_DEF_PATHS) {
        free(v->text);
        v->text = copy;
        return 0;
    }
    char **items = v->count < FY_DEF_LIST_MAX ? realloc(v->items, (v->count + 1) * sizeof *items) : NULL;
    if (!items) {
        free(copy);
        return fy_fail(e, FY_EUSAGE, "%s: at most %u items", k->name, FY_DEF_LIST_MAX);
    }
    v->items = items;
    v->items[v->count++] = copy;
    return 0;
}

int fy_def_put(struct fy_def *def, int key, const char *text, struct fy_err *e)
{
    const struct fy_def_key *k = &keys[key];
    struct fy_def_value *v = &def->values[key];
    uint64_t n = 0;
    switch (k->type) {
    case FY_DEF_SIZE:
    case FY_DEF_NUMBER:
        if ((k->type == FY_DEF_SIZE ? parse_size(text, &n) : parse_number(text, &n)) < 0 || n < k->min ||
            n > k->max || (k->step && n % k->step))
            return out_of_range(k, text, e);
        v->number = n;
        break;
    case FY_DEF_BOOL:
        if (parse_bool(text, &n) < 0)
            return fy_fail(e, FY_EUSAGE, "%s: %.64s is neither yes nor no", k->name, text);
        v->number = n;
        break;
    case FY_DEF_ENUM:
        if (!is_word(k->words, text))
            return fy_fail(e, FY_EUSAGE, "%s: %.64s is none of %s", k->name, text, k->words);
        if (put_text(v, k, text, e) < 0)
            return -1;
        break;
    default:
        if (put_text(v, k, text, e) < 0)
            return -1;
    }
    v->set = true;
    return 0;
}

const char *fy_def_text(const struct fy_def *def, const char *key)
{
    int k = fy_def_find(key);
    return k >= 0 && def->values[k].set ? def->values[k].text : NULL;
}

uint64_t fy_def_number(const struct fy_def *def, const char *key, uint64_t otherwise)
{
    int k = fy_def_find(key);
    return k >= 0 && def->values[k].set ? def->values[k].number : otherwise;
}
