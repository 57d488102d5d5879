// SPDX-License-Identifier: Apache-2.0
/* Definitions as a whole: assignments, paths, what belongs together. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/define/define.h"

static int copy_value(struct fy_def *to, const struct fy_def *from, int key, struct fy_err *e)
{
    const struct fy_def_value *v = &from->values[key];
    struct fy_def_value *out = &to->values[key];
    *out = (struct fy_def_value){.set = v->set, .number = v->number};
    if (v->text && !(out->text = strdup(v->text)))
        return fy_fail(e, FY_ERESOURCE, "no memory for a definition");
    out->items = v->count ? calloc(v->count, sizeof *out->items) : NULL;
    if (v->count && !out->items)
        return fy_fail(e, FY_ERESOURCE, "no memory for a definition");
    for (; out->count < v->count; out->count++)
        if (!(out->items[out->count] = strdup(v->items[out->count])))
            return fy_fail(e, FY_ERESOURCE, "no memory for a definition");
    return 0;
}

/* One "key=value" into `def`. began: the lists that this call has replaced already. */
static int assign(struct fy_def *def, const char *text, bool *began, struct fy_err *e)
{
    char name[32];
    const char *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : 0;
    if (!equals || n == 0 || n >= sizeof name)
        return fy_fail(e, FY_EUSAGE, "%.64s is no assignment (write it like memory=2G)", text);
    memcpy(name, text, n);
    name[n] = 0;
    int key = fy_def_find(name);
    if (key < 0)
        return fy_fail(e, FY_EUSAGE, "there is no setting %s (vmctl(1), DEFINITIONS, lists them)", name);
    if (!equals[1]) {
        fy_def_unset(def, key);
        return 0;
    }
    size_t count;
    const struct fy_def_key *k = &fy_def_keys(&count)[key];
    if ((k->type == FY_DEF_LIST || k->type == FY_DEF_PATHS) && !began[key])
        fy_def_unset(def, key);
    began[key] = true;
    return fy_def_put(def, key, equals + 1, e);
}

int fy_def_assign(struct fy_def *def, char *const *assignments, size_t n, struct fy_err *e)
{
    struct fy_def changed = {0};
    bool began[FY_DEF_KEYS_MAX] = {false};
    int rc = 0;
    memcpy(changed.name, def->name, sizeof changed.name);
    for (int i = 0; rc == 0 && i < (int)FY_DEF_KEYS_MAX; i++)
        rc = copy_value(&changed, def, i, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = assign(&changed, assignments[i], began, e);
    if (rc < 0) {
        fy_def_free(&changed);
        return -1;
    }
    fy_def_free(def);
    *def = changed;
    return 0;
}

/* "a.img,cache=none" has a path, "nbd://host/disk" has none. */
static bool is_relative(const char *text)
{
    size_t n = strcspn(text, ",");
    const char *scheme = strstr(text, "://");
    return *text != '/' && !(scheme && scheme < text + n);
}

static int make_absolute(char **text, const char *folder, struct fy_err *e)
{
    char *whole = NULL;
    if (!is_relative(*text))
        return 0;
    if (asprintf(&whole, "%s/%s", strcmp(folder, "/") != 0 ? folder : "", *text) < 0)
        return fy_fail(e, FY_ERESOURCE, "no memory for a path");
    if (strlen(whole) > FY_DEF_STRING_MAX || !fy_def_text_ok(whole, strlen(whole))) {
        free(whole);
        return fy_fail(e, FY_EUSAGE, "the path of %.64s is too long, or is no UTF-8", *text);
    }
    free(*text);
    *text = whole;
    return 0;
}

int fy_def_absolute(struct fy_def *def, const char *folder, struct fy_err *e)
{
    size_t count;
    const struct fy_def_key *k = fy_def_keys(&count);
    for (size_t i = 0; i < count; i++) {
        struct fy_def_value *v = &def->values[i];
        if (k[i].type == FY_DEF_PATH && v->set && make_absolute(&v->text, folder, e) < 0)
            return -1;
        for (size_t j = 0; k[i].type == FY_DEF_PATHS && j < v->count; j++)
            if (make_absolute(&v->items[j], folder, e) < 0)
                return -1;
    }
    return 0;
}

static bool name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n >= FY_DEF_NAME_MAX || !isalnum((unsigned char)name[0]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
            return false;
    return true;
}

int fy_def_check(const struct fy_def *def, struct fy_err *e)
{
    size_t count;
    const struct fy_def_key *k = fy_def_keys(&count);
    if (!*def->name)
        return fy_fail(e, FY_EUSAGE, "a definition needs a name (name: web)");
    if (!name_ok(def->name))
        return fy_fail(e, FY_EUSAGE,
                       "a name has 1 to 63 letters, digits, dots, dashes or underscores and begins with a "
                       "letter or digit");
    for (size_t i = 0; i < count; i++) {
        const struct fy_def_value *v = &def->values[i];
        if (k[i].type == FY_DEF_PATH && v->set && is_relative(v->text))
            return fy_fail(e, FY_EUSAGE, "%s: %.256s is no absolute path", k[i].name, v->text);
        for (size_t j = 0; k[i].type == FY_DEF_PATHS && j < v->count; j++)
            if (is_relative(v->items[j]))
                return fy_fail(e, FY_EUSAGE, "%s: %.256s has no absolute path", k[i].name, v->items[j]);
    }
    const char *firmware = fy_def_text(def, "firmware");
    if (firmware && strcmp(firmware, "bios") != 0 && strcmp(firmware, "uefi") != 0 && firmware[0] != '/')
        return fy_fail(e, FY_EUSAGE, "firmware: bios, uefi or an absolute path, not %.64s", firmware);
    if (fy_def_text(def, "initrd") && !fy_def_text(def, "kernel"))
        return fy_fail(e, FY_EUSAGE, "an initrd is of no use without a kernel (kernel: PATH)");
    char *text = fy_def_write(def);
    if (!text)
        return fy_fail(e, FY_ERESOURCE, "no memory for a definition");
    bool fits = strlen(text) <= FY_DEF_TEXT_MAX;
    free(text);
    return fits ? 0 : fy_fail(e, FY_EUSAGE, "a definition has at most %u bytes", FY_DEF_TEXT_MAX);
}
