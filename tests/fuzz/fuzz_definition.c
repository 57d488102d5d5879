// SPDX-License-Identifier: Apache-2.0
/* A definition's YAML; behind the first NUL an assignment for it. What is refused has left nothing and says
 * why, what is taken is written and read again the same. */
#include <string.h>

#include "hv/define/define.h"
#include "tests/fuzz/fuzz.h"

static void must_be_empty(const struct fy_def *def)
{
    for (size_t i = 0; i < FY_DEF_KEYS_MAX; i++)
        MUST(!def->values[i].set && !def->values[i].text && !def->values[i].items);
    MUST(!*def->name);
}

static void must_come_back(const struct fy_def *def)
{
    struct fy_def again = {0};
    struct fy_err e = {0};
    char *one = fy_def_write(def);
    MUST(one != NULL);
    if (fy_def_check(def, &e) == 0) {
        MUST(fy_def_parse(one, strlen(one), &again, &e) == 0);
        char *two = fy_def_write(&again);
        MUST(two != NULL && !strcmp(one, two));
        free(two);
        fy_def_free(&again);
    } else {
        MUST(*e.text && e.code);
    }
    free(one);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fy_def def = {0};
    struct fy_err e = {0};
    const uint8_t *nul = memchr(data, 0, size);
    size_t len = nul ? (size_t)(nul - data) : size;
    if (fy_def_parse((const char *)data, len, &def, &e) < 0) {
        MUST(*e.text && (e.code == FY_EUSAGE || e.code == FY_ERESOURCE));
        must_be_empty(&def);
        return 0;
    }
    must_come_back(&def);
    if (nul) {
        char *text = strndup((const char *)nul + 1, size - len - 1);
        e = (struct fy_err){0};
        if (text && fy_def_assign(&def, &text, 1, &e) < 0)
            MUST(*e.text);
        free(text);
        must_come_back(&def);
    }
    if (fy_def_absolute(&def, "/folder", &e) == 0)
        must_come_back(&def);
    fy_def_free(&def);
    return 0;
}
