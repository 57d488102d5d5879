// SPDX-License-Identifier: Apache-2.0
/* Errors: a code that a program can act on and a sentence that a person can. */
#ifndef FERRY_BASE_ERR_H
#define FERRY_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>

/* Stable: these are vmctl's exit codes and cross process and host boundaries as numbers. */
enum fy_code {
    FY_OK = 0,
    FY_EFAIL = 1,         /* anything without a better code */
    FY_EUSAGE = 2,        /* an argument is wrong */
    FY_ENOTFOUND = 3,     /* no such guest, host or job */
    FY_ESTATE = 4,        /* the object is not in a state that allows this */
    FY_EREFUSED = 5,      /* the target cannot run this guest; the text lists every reason */
    FY_EUNREACHABLE = 6,  /* daemon or peer does not answer */
    FY_EAUTH = 7,         /* identity not proved, token spent or expired */
    FY_EDEADLINE = 8,     /* a deadline passed */
    FY_ECANCELLED = 9,    /* cancelled on request */
    FY_EUNCERTAIN = 10,   /* hand-over not yet resolved */
    FY_ERESOURCE = 11,    /* memory, disk or descriptors short */
    FY_ECORRUPT = 12,     /* bytes from outside break their format */
    FY_EUNSUPPORTED = 13, /* this host or build cannot do it */
    FY_EEXISTS = 14,      /* the name is taken */
    FY_ECRASHED = 15,     /* the guest or its hypervisor died */
};

#define FY_ERR_TEXT 1024

/* Filled by a failing call, untouched by a succeeding one. Plain value; copy freely. */
struct fy_err {
    int code; /* enum fy_code */
    char text[FY_ERR_TEXT];
};

/* Set *e (which may be NULL) to code and the formatted text, cut at FY_ERR_TEXT. Returns -1, so
 * that a function can `return fy_fail(...)`. Any thread. */
int fy_fail(struct fy_err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As fy_fail, with ": " and strerror(err) appended. */
int fy_fail_errno(struct fy_err *e, int code, int err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Put "prefix: " before the text of *e; the code stays. Returns -1. */
int fy_fail_prefix(struct fy_err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#if defined(__clang_analyzer__) && !defined(FY_ERR_HERE)
/* clang-tidy looks at one file at a time: it is to know that these are negative. */
static inline int fy_failed(int r)
{
    (void)r;
    return -1;
}
#define fy_fail(...) fy_failed(fy_fail(__VA_ARGS__))
#define fy_fail_errno(...) fy_failed(fy_fail_errno(__VA_ARGS__))
#define fy_fail_prefix(...) fy_failed(fy_fail_prefix(__VA_ARGS__))
#endif

/* A short stable name of a code ("refused"), for JSON and logs; "unknown" for others. */
const char *fy_code_name(int code);

#endif
