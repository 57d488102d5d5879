// SPDX-License-Identifier: Apache-2.0
#include "cli/args.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* "123" or "123.45" at *text, which moves behind it: value = whole + part / scale. */
static int decimal(const char **text, uint64_t *whole, uint64_t *part, uint64_t *scale)
{
    const char *p = *text;
    *whole = *part = 0;
    *scale = 1;
    if (!isdigit((unsigned char)*p))
        return -1;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(*whole, 10, whole) ||
            __builtin_add_overflow(*whole, (uint64_t)(*p - '0'), whole))
            return -1;
    if (*p == '.') {
        if (!isdigit((unsigned char)*++p))
            return -1;
        for (; isdigit((unsigned char)*p); p++) {
            if (*scale > 100000000)
                return -1;
            *part = *part * 10 + (uint64_t)(*p - '0');
            *scale *= 10;
        }
    }
    *text = p;
    return 0;
}

static int scaled(uint64_t whole, uint64_t part, uint64_t scale, uint64_t unit, uint64_t *out)
{
    uint64_t fraction;
    if (__builtin_mul_overflow(whole, unit, &whole) || __builtin_mul_overflow(part, unit, &fraction) ||
        __builtin_add_overflow(whole, fraction / scale, out))
        return -1;
    return 0;
}

int cli_parse_size(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    uint64_t whole, part, scale, unit = 1;
    if (decimal(&text, &whole, &part, &scale) < 0)
        return -1;
    if (*text) {
        const char *u = strchr(units, toupper((unsigned char)*text));
        if (!u)
            return -1;
        unit = 1ull << (10 * (u - units + 1));
        text++;
        if (!strcasecmp(text, "ib") || !strcasecmp(text, "b"))
            text += strlen(text);
    } else if (scale != 1) {
        return -1;
    }
    return *text ? -1 : scaled(whole, part, scale, unit, bytes);
}

int cli_parse_time(const char *text, uint64_t *ns)
{
    static const struct {
        const char *name;
        uint64_t ns;
    } units[] = {{"us", 1000}, {"ms", 1000000}, {"s", 1000000000}, {"m", 60000000000ull}};
    uint64_t whole, part, scale;
    if (decimal(&text, &whole, &part, &scale) < 0)
        return -1;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!strcmp(text, units[i].name))
            return scaled(whole, part, scale, units[i].ns, ns);
    return -1;
}

int cli_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
    uint64_t part, scale;
    if (decimal(&text, value, &part, &scale) < 0 || scale != 1 || *text || *value < min || *value > max)
        return -1;
    return 0;
}

int cli_parse_codec(const char *text, char name[8], int *level, int *has_level)
{
    static const char *const names[] = {"auto", "none", "lz4", "zstd"};
    size_t n = strcspn(text, ":");
    *has_level = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i]) != n || strncmp(text, names[i], n) != 0)
            continue;
        memcpy(name, names[i], n + 1);
        if (!text[n])
            return 0;
        char *end;
        errno = 0;
        long v = strtol(text + n + 1, &end, 10);
        if (i < 2 || end == text + n + 1 || *end || errno || v < -100 || v > 22)
            return -1;
        *level = (int)v;
        *has_level = 1;
        return 0;
    }
    return -1;
}

int cli_prefix(const char *text, const char *const *words, size_t stride)
{
    int found = -1;
    size_t n = strlen(text);
    for (int i = 0;; i++) {
        const char *word = *(const char *const *)((const char *)words + (size_t)i * stride);
        if (!word)
            return found;
        if (!strcmp(word, text))
            return i;
        /* Hidden words, which begin with '_', are not abbreviated. */
        if (n && word[0] != '_' && !strncmp(word, text, n))
            found = found == -1 ? i : -2;
    }
}
