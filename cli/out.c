// SPDX-License-Identifier: Apache-2.0
#include "cli/out.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Length of the UTF-8 sequence at p (RFC 3629), 0 when there is none. */
static unsigned utf8_len(const unsigned char *p)
{
    unsigned n = p[0] < 0x80                   ? 1
                 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
                 : (p[0] & 0xf0) == 0xe0       ? 3
                 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
                                               : 0;
    for (unsigned i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if (n == 3 && ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0)))
        return 0;
    if (n == 4 && ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90)))
        return 0;
    return n;
}

void cli_json_quote(FILE *f, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    putc('"', f);
    while (*p) {
        unsigned n = utf8_len(p);
        if (n == 0) {
            fputs("\\ufffd", f);
            p++;
            continue;
        }
        if (n > 1) {
            fwrite(p, 1, n, f);
        } else if (*p == '"' || *p == '\\') {
            putc('\\', f);
            putc(*p, f);
        } else if (*p == '\n') {
            fputs("\\n", f);
        } else if (*p == '\t') {
            fputs("\\t", f);
        } else if (*p == '\r') {
            fputs("\\r", f);
        } else if (*p < 0x20 || *p == 0x7f) {
            fprintf(f, "\\u%04x", *p);
        } else {
            putc(*p, f);
        }
        p += n;
    }
    putc('"', f);
}

static void member(struct cli_json *j, const char *key)
{
    if (j->more[j->depth])
        putc(',', j->f);
    j->more[j->depth] = true;
    if (key) {
        cli_json_quote(j->f, key);
        putc(':', j->f);
    }
}

static void open_bracket(struct cli_json *j, char bracket)
{
    putc(bracket, j->f);
    if (j->depth + 1 < CLI_JSON_DEPTH)
        j->depth++;
    j->more[j->depth] = false;
}

struct cli_json cli_json_begin(FILE *f)
{
    struct cli_json j = {.f = f};
    open_bracket(&j, '{');
    cli_json_u64(&j, "schema", 1);
    return j;
}

void cli_json_end(struct cli_json *j)
{
    fputs("}\n", j->f);
    fflush(j->f);
}

void cli_json_object(struct cli_json *j, const char *key)
{
    member(j, key);
    open_bracket(j, '{');
}

void cli_json_array(struct cli_json *j, const char *key)
{
    member(j, key);
    open_bracket(j, '[');
}

void cli_json_close(struct cli_json *j, char bracket)
{
    putc(bracket, j->f);
    if (j->depth)
        j->depth--;
}

void cli_json_string(struct cli_json *j, const char *key, const char *value)
{
    member(j, key);
    cli_json_quote(j->f, value);
}

void cli_json_u64(struct cli_json *j, const char *key, uint64_t value)
{
    member(j, key);
    fprintf(j->f, "%" PRIu64, value);
}

void cli_json_i64(struct cli_json *j, const char *key, int64_t value)
{
    member(j, key);
    fprintf(j->f, "%" PRId64, value);
}

void cli_json_bool(struct cli_json *j, const char *key, bool value)
{
    member(j, key);
    fputs(value ? "true" : "false", j->f);
}

void cli_json_ms(struct cli_json *j, const char *key, uint64_t ns)
{
    member(j, key);
    uint64_t us = (ns + 500) / 1000;
    fprintf(j->f, "%" PRIu64 ".%03u", us / 1000, (unsigned)(us % 1000));
}

void cli_json_double(struct cli_json *j, const char *key, double value, int digits)
{
    member(j, key);
    /* No locale is set, so the point is a point. JSON has no word for what is not finite. */
    if (value - value != 0)
        fputs("null", j->f);
    else
        fprintf(j->f, "%.*f", digits, value);
}

void cli_json_null(struct cli_json *j, const char *key)
{
    member(j, key);
    fputs("null", j->f);
}

void cli_table_cell(struct cli_table *t, const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    if (t->count == t->room) {
        size_t room = t->room ? t->room * 2 : 64;
        char **cells = realloc(t->cells, room * sizeof *cells);
        if (!cells) {
            free(text);
            return;
        }
        t->cells = cells;
        t->room = room;
    }
    /* Names and reports come from guests and peers: no escape sequences to the operator's terminal. */
    for (char *p = text; p && *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = *p == '\n' ? ' ' : '?';
    t->cells[t->count++] = text;
}

static const char *cell(const struct cli_table *t, size_t i)
{
    return i < t->count && t->cells[i] ? t->cells[i] : "";
}

void cli_table_print(const struct cli_table *t, FILE *f)
{
    for (size_t row = 0; row * t->columns < t->count; row++) {
        for (unsigned col = 0; col < t->columns; col++) {
            size_t width = 0;
            for (size_t r = 0; r * t->columns < t->count; r++) {
                size_t n = strlen(cell(t, r * t->columns + col));
                width = n > width ? n : width;
            }
            const char *text = cell(t, row * t->columns + col);
            bool last = col + 1 == t->columns;
            if (t->numeric >> col & 1)
                fprintf(f, "%*s", (int)width, text);
            else
                fprintf(f, "%-*s", last ? 0 : (int)width, text);
            fputs(last ? "\n" : "  ", f);
        }
    }
}

void cli_table_free(struct cli_table *t)
{
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i]);
    free(t->cells);
    *t = (struct cli_table){0};
}

const char *cli_size(uint64_t bytes, char *out)
{
    static const char units[] = "KMGT";
    if (bytes < 1024) {
        snprintf(out, 16, "%" PRIu64, bytes);
        return out;
    }
    double v = (double)bytes / 1024;
    unsigned u = 0;
    while (v >= 1023.95 && u < 3) {
        v /= 1024;
        u++;
    }
    snprintf(out, 16, v < 10 && v != (double)(uint64_t)v ? "%.1f%c" : "%.0f%c", v, units[u]);
    return out;
}

const char *cli_time(uint64_t ns, char *out)
{
    if (ns >= 100 * 1000000000ull)
        snprintf(out, 24, "%.0f s", (double)ns / 1e9);
    else if (ns >= 1000000000ull)
        snprintf(out, 24, "%.2f s", (double)ns / 1e9);
    else if (ns >= 1000000ull)
        snprintf(out, 24, "%.1f ms", (double)ns / 1e6);
    else
        snprintf(out, 24, "%.0f us", (double)ns / 1e3);
    return out;
}
