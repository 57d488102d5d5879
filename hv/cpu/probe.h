// SPDX-License-Identifier: Apache-2.0
/* What an engine offers, in words for `vmctl doctor`. */
#ifndef FERRY_CPU_PROBE_H
#define FERRY_CPU_PROBE_H

#include <stddef.h>

#include "hv/cpu/model.h"

/* Text that grows in a buffer and is cut where it ends; always terminated. room > 0. */
struct fy_text {
    char *p;
    size_t room, len;
};
void fy_text_put(struct fy_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Append `"default_model":…,"models":[{"name":…,"offered":…,"missing":[…]},…]`: each CPU model against what
 * an engine offers. Pure but for memory. */
void fy_cpu_models_json(struct fy_text *t, const struct fy_cpu_support *s);

#endif
