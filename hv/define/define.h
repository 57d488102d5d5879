// SPDX-License-Identifier: Apache-2.0
/* A guest's definition: the settings it is started with, as YAML that people write and the daemon keeps.
 * Which settings there are is one table (keys.c). Plain memory, no I/O; any thread, one at a time for a
 * definition. */
#ifndef FERRY_DEFINE_DEFINE_H
#define FERRY_DEFINE_DEFINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

#define FY_DEF_TEXT_MAX (64u << 10) /* bytes of a YAML document */
#define FY_DEF_STRING_MAX 4096u     /* bytes of a text value */
#define FY_DEF_LIST_MAX 32u         /* items of a list */
#define FY_DEF_KEYS_MAX 32u
#define FY_DEF_NAME_MAX 64u

enum fy_def_type {
    FY_DEF_SIZE,   /* bytes: 2G, 512M */
    FY_DEF_NUMBER, /* a whole number */
    FY_DEF_BOOL,   /* yes, no, true, false, on, off */
    FY_DEF_STRING,
    FY_DEF_PATH, /* an absolute path */
    FY_DEF_ENUM, /* one of `words` */
    FY_DEF_LIST, /* texts as the option of `vmctl start` takes them */
    FY_DEF_PATHS /* a list whose items begin with a path, up to the first comma, or a URI */
};

/* A row: one setting. A later one is added here, and works everywhere (create, set, export, start). */
struct fy_def_key {
    const char *name; /* in YAML and in `vmctl set` */
    enum fy_def_type type;
    uint64_t min, max, step; /* of a number or size; step 0: any */
    const char *words;       /* of an enum: "no|on-crash" */
    const char *field;       /* of ApiStart that takes the value; NULL: the daemon's own */
};

/* The rows; *count of them. */
const struct fy_def_key *fy_def_keys(size_t *count);
/* The index of the row with a name, -1: none. */
int fy_def_find(const char *name);

struct fy_def_value {
    bool set;
    uint64_t number; /* SIZE, NUMBER, BOOL */
    char *text;      /* STRING, PATH, ENUM; owned */
    char **items;    /* LIST, PATHS; owned */
    size_t count;
};

struct fy_def {
    char name[FY_DEF_NAME_MAX]; /* "": not given */
    struct fy_def_value values[FY_DEF_KEYS_MAX];
};

/* Free the values; the definition is empty again. */
void fy_def_free(struct fy_def *def);

/* Set a value from text, as `vmctl set` writes it; an item is appended to a list. Refuses with FY_EUSAGE and
 * a text that says what the key takes; the definition is then as it was. */
int fy_def_put(struct fy_def *def, int key, const char *text, struct fy_err *e);
/* Forget a value. */
void fy_def_unset(struct fy_def *def, int key);
/* "key=value", "key=" (forget it); a list is replaced by its first assignment and extended by others of the
 * same call: `n` of them. On error nothing is changed. 0 or -1. */
int fy_def_assign(struct fy_def *def, char *const *assignments, size_t n, struct fy_err *e);
/* Relative paths become absolute, seen from `folder` (absolute). 0 or -1 with FY_EUSAGE or FY_ERESOURCE. */
int fy_def_absolute(struct fy_def *def, const char *folder, struct fy_err *e);
/* Whether what belongs together is there: a name, absolute paths, a kernel for an initrd. 0, or -1 with
 * FY_EUSAGE. */
int fy_def_check(const struct fy_def *def, struct fy_err *e);

/* The text of a key whose value is text, or NULL; a bool or number, or `otherwise`. */
const char *fy_def_text(const struct fy_def *def, const char *key);
uint64_t fy_def_number(const struct fy_def *def, const char *key, uint64_t otherwise);

/* Read one YAML document into *def, which must be empty. Refuses with FY_EUSAGE, the line and the column
 * (both from 1) and what to do: unknown and repeated keys, wrong types, values out of range, aliases, tags,
 * further documents, more than the limits above. */
int fy_def_parse(const char *text, size_t len, struct fy_def *def, struct fy_err *e);
/* The definition as YAML that fy_def_parse reads to the same; the caller frees it. NULL: no memory. */
char *fy_def_write(const struct fy_def *def);

/* UTF-8 without control characters. */
bool fy_def_text_ok(const char *text, size_t len);

#endif
