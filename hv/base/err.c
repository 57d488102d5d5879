// SPDX-License-Identifier: Apache-2.0
#define FY_ERR_HERE
#include "hv/base/err.h"

#include <stdio.h>
#include <string.h>

int fy_fail(struct fy_err *e, int code, const char *fmt, ...)
{
    if (!e)
        return -1;
    va_list ap;
    va_start(ap, fmt);
    /* Through a scratch buffer: an argument may be the old text of *e. */
    char text[FY_ERR_TEXT];
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(e->text, text, sizeof text);
    e->code = code;
    return -1;
}

int fy_fail_errno(struct fy_err *e, int code, int err, const char *fmt, ...)
{
    if (!e)
        return -1;
    char text[FY_ERR_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char buf[128];
    const char *why = strerror_r(err, buf, sizeof buf);
    return fy_fail(e, code, "%s: %s", text, why);
}

int fy_fail_prefix(struct fy_err *e, const char *fmt, ...)
{
    if (!e)
        return -1;
    char text[FY_ERR_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return fy_fail(e, e->code, "%s: %s", text, e->text);
}

const char *fy_code_name(int code)
{
    static const char *const names[] = {
        [FY_OK] = "ok",
        [FY_EFAIL] = "failed",
        [FY_EUSAGE] = "usage",
        [FY_ENOTFOUND] = "not-found",
        [FY_ESTATE] = "wrong-state",
        [FY_EREFUSED] = "refused",
        [FY_EUNREACHABLE] = "unreachable",
        [FY_EAUTH] = "not-authenticated",
        [FY_EDEADLINE] = "deadline",
        [FY_ECANCELLED] = "cancelled",
        [FY_EUNCERTAIN] = "uncertain",
        [FY_ERESOURCE] = "resource",
        [FY_ECORRUPT] = "corrupt",
        [FY_EUNSUPPORTED] = "unsupported",
        [FY_EEXISTS] = "exists",
        [FY_ECRASHED] = "crashed",
    };
    if (code < 0 || code >= (int)(sizeof names / sizeof names[0]))
        return "unknown";
    return names[code];
}
