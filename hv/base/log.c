// SPDX-License-Identifier: Apache-2.0
#include "hv/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *log_program = "ferry";
static enum fy_log_level log_level = FY_LOG_INFO;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void fy_log_init(const char *program, enum fy_log_level level)
{
    log_program = program;
    log_level = level;
    const char *env = getenv("FERRY_LOG");
    for (int i = 0; env && i < 4; i++)
        if (!strcmp(env, level_names[i]))
            log_level = (enum fy_log_level)i;
}

void fy_log(enum fy_log_level level, const char *fmt, ...)
{
    if (level > log_level)
        return;
    char line[1400];
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ %s[%d] %s: ", ts.tv_nsec / 1000000, log_program,
                          (int)getpid(), level_names[level]);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
    va_end(ap);
    n = m < 0 ? n : n + (size_t)m;
    if (n > sizeof line - 1)
        n = sizeof line - 1;
    line[n++] = '\n';
    /* A log line that cannot be written has nowhere to be reported. */
    ssize_t ignored = write(STDERR_FILENO, line, n);
    (void)ignored;
}
