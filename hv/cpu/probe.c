// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/probe.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"

void fy_text_put(struct fy_text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->p + t->len, t->room - t->len, fmt, ap);
    va_end(ap);
    if (n > 0)
        t->len += FY_MIN((size_t)n, t->room - t->len - 1);
}

void fy_cpu_models_json(struct fy_text *t, const struct fy_cpu_support *s)
{
    fy_text_put(t, "\"default_model\":\"%s\",\"models\":[", fy_cpu_default_model(s));
    for (int i = 0; fy_cpu_models[i]; i++) {
        Ferry__CpuPolicy *p = malloc(sizeof *p);
        struct fy_err e = {.code = 0};
        if (!p)
            break;
        ferry__cpu_policy__init(p);
        bool ok = fy_cpu_resolve(fy_cpu_models[i], s, p, &e) == 0;
        ferry__cpu_policy__free_unpacked(p, NULL);
        fy_text_put(t, "%s{\"name\":\"%s\",\"offered\":%s,\"missing\":[", i ? "," : "", fy_cpu_models[i],
                    ok ? "true" : "false");
        char *save = NULL;
        char *line = ok ? NULL : strtok_r(e.text, "\n", &save);
        for (bool first = true; line; line = strtok_r(NULL, "\n", &save), first = false)
            fy_text_put(t, "%s\"%s\"", first ? "" : ",", line);
        fy_text_put(t, "]}");
    }
    fy_text_put(t, "]");
}
