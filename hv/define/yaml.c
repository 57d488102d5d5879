// SPDX-License-Identifier: Apache-2.0
/* Definitions as YAML: libyaml's events in, plain text out. One mapping of scalars and of lists of scalars.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "hv/define/define.h"

struct reader {
    yaml_parser_t parser;
    struct fy_def *def;
    struct fy_err *e;
};

static int fail_at(const struct reader *r, yaml_mark_t at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int fail_at(const struct reader *r, yaml_mark_t at, const char *fmt, ...)
{
    char text[640];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return fy_fail(r->e, FY_EUSAGE, "line %zu, column %zu: %s", at.line + 1, at.column + 1, text);
}

/* The next event; delete it. -1 when the text is no YAML. */
static int next(struct reader *r, yaml_event_t *ev)
{
    if (yaml_parser_parse(&r->parser, ev))
        return 0;
    const char *what = r->parser.problem ? r->parser.problem : "it is no YAML";
    /* Of a byte that is no UTF-8 libyaml tells the offset only. */
    if (r->parser.error == YAML_READER_ERROR)
        return fy_fail(r->e, FY_EUSAGE, "byte %zu: %s", r->parser.problem_offset + 1, what);
    if (r->parser.error == YAML_MEMORY_ERROR)
        return fy_fail(r->e, FY_ERESOURCE, "no memory to read a definition");
    return fail_at(r, r->parser.problem_mark, "%s%s%s (a text with : or # in it is to be quoted)", what,
                   r->parser.context ? ", " : "", r->parser.context ? r->parser.context : "");
}

/* A scalar without anchor and tag and with no NUL in it. */
static int check_scalar(const struct reader *r, const yaml_event_t *ev)
{
    if (ev->type == YAML_ALIAS_EVENT)
        return fail_at(r, ev->start_mark, "aliases have no place in a definition (write the value out)");
    if (ev->type != YAML_SCALAR_EVENT)
        return fail_at(r, ev->start_mark, "a single value belongs here, not a %s",
                       ev->type == YAML_MAPPING_START_EVENT ? "mapping" : "list");
    if (ev->data.scalar.anchor || ev->data.scalar.tag)
        return fail_at(r, ev->start_mark, "anchors and tags have no place in a definition");
    if (strlen((const char *)ev->data.scalar.value) != ev->data.scalar.length)
        return fail_at(r, ev->start_mark, "a NUL is in the value");
    return 0;
}

static int put(const struct reader *r, const yaml_event_t *ev, int key)
{
    size_t count;
    const struct fy_def_key *k = &fy_def_keys(&count)[key];
    bool plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    const char *text = (const char *)ev->data.scalar.value;
    struct fy_err e;
    if (plain && (!*text || !strcmp(text, "~") || !strcmp(text, "null")))
        return fail_at(r, ev->start_mark, "%s has no value (give it one, or leave the line away)", k->name);
    if (!plain && (k->type == FY_DEF_SIZE || k->type == FY_DEF_NUMBER || k->type == FY_DEF_BOOL))
        return fail_at(r, ev->start_mark, "%s wants a %s, not a quoted text (leave the quotes away)", k->name,
                       k->type == FY_DEF_BOOL   ? "yes or no"
                       : k->type == FY_DEF_SIZE ? "size"
                                                : "number");
    if (fy_def_put(r->def, key, text, &e) == 0)
        return 0;
    return e.code == FY_ERESOURCE ? fy_fail(r->e, e.code, "%s", e.text)
                                  : fail_at(r, ev->start_mark, "%s", e.text);
}

static int read_list(struct reader *r, int key)
{
    size_t count;
    const struct fy_def_key *k = &fy_def_keys(&count)[key];
    yaml_event_t ev;
    for (;;) {
        if (next(r, &ev) < 0)
            return -1;
        bool end = ev.type == YAML_SEQUENCE_END_EVENT;
        int rc = end ? 0 : check_scalar(r, &ev);
        if (!end && rc == 0 && r->def->values[key].count == FY_DEF_LIST_MAX)
            rc = fail_at(r, ev.start_mark, "%s has more than %u items", k->name, FY_DEF_LIST_MAX);
        if (!end && rc == 0)
            rc = put(r, &ev, key);
        yaml_event_delete(&ev);
        if (end || rc < 0)
            return rc;
    }
}

/* The value of a key, whose first event is *ev. */
static int read_value(struct reader *r, const yaml_event_t *ev, int key)
{
    size_t count;
    const struct fy_def_key *k = &fy_def_keys(&count)[key];
    bool list = k->type == FY_DEF_LIST || k->type == FY_DEF_PATHS;
    if (list && ev->type == YAML_SEQUENCE_START_EVENT) {
        if (ev->data.sequence_start.anchor || ev->data.sequence_start.tag)
            return fail_at(r, ev->start_mark, "anchors and tags have no place in a definition");
        r->def->values[key].set = true;
        return read_list(r, key);
    }
    if (list)
        return fail_at(r, ev->start_mark, "%s wants a list (%s: [ \"...\" ])", k->name, k->name);
    return check_scalar(r, ev) < 0 ? -1 : put(r, ev, key);
}

static int read_name(const struct reader *r, const yaml_event_t *ev)
{
    if (check_scalar(r, ev) < 0)
        return -1;
    if (*r->def->name)
        return fail_at(r, ev->start_mark, "name is there twice");
    if (!ev->data.scalar.length || ev->data.scalar.length >= sizeof r->def->name)
        return fail_at(r, ev->start_mark, "a name has 1 to 63 characters");
    memcpy(r->def->name, ev->data.scalar.value, ev->data.scalar.length + 1);
    return 0;
}

/* What a key may be, for people: "memory, cpus, …". */
static const char *all_names(char out[512])
{
    size_t count, n = (size_t)snprintf(out, 512, "name");
    const struct fy_def_key *k = fy_def_keys(&count);
    for (size_t i = 0; i < count && n < 512; i++)
        n += (size_t)snprintf(out + n, 512 - n, ", %s", k[i].name);
    return out;
}

/* The key in *ev, then its value. */
static int read_pair(struct reader *r, const yaml_event_t *ev)
{
    char names[512];
    if (check_scalar(r, ev) < 0)
        return -1;
    const char *word = (const char *)ev->data.scalar.value;
    int key = fy_def_find(word);
    bool name = !strcmp(word, "name");
    if (key < 0 && !name)
        return fail_at(r, ev->start_mark, "there is no setting %.32s (there are %s)", word, all_names(names));
    if (key >= 0 && r->def->values[key].set)
        return fail_at(r, ev->start_mark, "%s is there twice", word);
    yaml_event_t value;
    if (next(r, &value) < 0)
        return -1;
    int rc = name ? read_name(r, &value) : read_value(r, &value, key);
    yaml_event_delete(&value);
    return rc;
}

static int read_mapping(struct reader *r)
{
    yaml_event_t ev;
    for (;;) {
        if (next(r, &ev) < 0)
            return -1;
        bool end = ev.type == YAML_MAPPING_END_EVENT;
        int rc = end ? 0 : read_pair(r, &ev);
        yaml_event_delete(&ev);
        if (end || rc < 0)
            return rc;
    }
}

/* One event of `type`, or an error that says what was expected. */
static int expect(struct reader *r, yaml_event_type_t type, const char *what)
{
    yaml_event_t ev;
    if (next(r, &ev) < 0)
        return -1;
    int rc = ev.type == type ? 0 : fail_at(r, ev.start_mark, "%s", what);
    if (rc == 0 && type == YAML_MAPPING_START_EVENT &&
        (ev.data.mapping_start.anchor || ev.data.mapping_start.tag))
        rc = fail_at(r, ev.start_mark, "anchors and tags have no place in a definition");
    yaml_event_delete(&ev);
    return rc;
}

int fy_def_parse(const char *text, size_t len, struct fy_def *def, struct fy_err *e)
{
    static const char no_mapping[] = "a definition is lines like \"memory: 2G\"";
    struct reader r = {.def = def, .e = e};
    if (len > FY_DEF_TEXT_MAX)
        return fy_fail(e, FY_EUSAGE, "a definition has at most %u bytes", FY_DEF_TEXT_MAX);
    if (!yaml_parser_initialize(&r.parser))
        return fy_fail(e, FY_ERESOURCE, "no memory to read a definition");
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    int rc = -1;
    if (expect(&r, YAML_STREAM_START_EVENT, no_mapping) == 0 &&
        expect(&r, YAML_DOCUMENT_START_EVENT, no_mapping) == 0 &&
        expect(&r, YAML_MAPPING_START_EVENT, no_mapping) == 0 && read_mapping(&r) == 0 &&
        expect(&r, YAML_DOCUMENT_END_EVENT, no_mapping) == 0 &&
        expect(&r, YAML_STREAM_END_EVENT, "one definition a file") == 0)
        rc = 0;
    yaml_parser_delete(&r.parser);
    if (rc < 0)
        fy_def_free(def);
    return rc;
}

/* A text in double quotes: nothing in it is special to a reader then. It has no control characters. */
static void write_text(FILE *f, const char *text)
{
    putc('"', f);
    for (; *text; text++) {
        /* The two separators that YAML takes for ends of a line. */
        bool line = !strncmp(text, "\xe2\x80\xa8", 3);
        if (line || !strncmp(text, "\xe2\x80\xa9", 3)) {
            fputs(line ? "\\L" : "\\P", f);
            text += 2;
            continue;
        }
        if (*text == '"' || *text == '\\')
            putc('\\', f);
        putc(*text, f);
    }
    putc('"', f);
}

static void write_size(FILE *f, uint64_t bytes)
{
    static const char units[] = "KMGT";
    int unit = -1;
    while (unit < 3 && bytes && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    fprintf(f, "%llu", (unsigned long long)bytes);
    if (unit >= 0)
        putc(units[unit], f);
}

static void write_value(FILE *f, const struct fy_def_key *k, const struct fy_def_value *v)
{
    switch (k->type) {
    case FY_DEF_SIZE:
        write_size(f, v->number);
        break;
    case FY_DEF_NUMBER:
        fprintf(f, "%llu", (unsigned long long)v->number);
        break;
    case FY_DEF_BOOL:
        fputs(v->number ? "yes" : "no", f);
        break;
    case FY_DEF_ENUM:
        fputs(v->text, f);
        break;
    case FY_DEF_LIST:
    case FY_DEF_PATHS:
        putc('[', f);
        for (size_t i = 0; i < v->count; i++) {
            fputs(i ? ", " : "", f);
            write_text(f, v->items[i]);
        }
        putc(']', f);
        break;
    default:
        write_text(f, v->text);
    }
    putc('\n', f);
}

char *fy_def_write(const struct fy_def *def)
{
    char *text = NULL;
    size_t len = 0, count;
    const struct fy_def_key *k = fy_def_keys(&count);
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return NULL;
    fputs("name: ", f);
    write_text(f, def->name);
    putc('\n', f);
    for (size_t i = 0; i < count; i++) {
        if (!def->values[i].set)
            continue;
        fprintf(f, "%s: ", k[i].name);
        write_value(f, &k[i], &def->values[i]);
    }
    bool failed = ferror(f) != 0;
    if (fclose(f) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}
