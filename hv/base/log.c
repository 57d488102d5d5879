// SPDX-License-Identifier: Apache-2.0
#include "hv/base/log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hv/base/clock.h"

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

static void log_line(enum fy_log_level level, const char *fmt, va_list ap)
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
    int m = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
    n = m < 0 ? n : n + (size_t)m;
    if (n > sizeof line - 1)
        n = sizeof line - 1;
    line[n++] = '\n';
    /* A log line that cannot be written has nowhere to be reported. */
    ssize_t ignored = write(STDERR_FILENO, line, n);
    (void)ignored;
}

void fy_log(enum fy_log_level level, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line(level, fmt, ap);
    va_end(ap);
}

/* May a line be written now? *left_out: how many were not since the last one. */
static bool within(struct fy_log_limit *l, uint64_t *left_out)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    uint64_t now = fy_now_ns();
    *left_out = 0;
    pthread_mutex_lock(&lock);
    if (!l->since || now - l->since >= FY_LOG_LIMIT_S * 1000000000ull) {
        *left_out = l->left_out;
        *l = (struct fy_log_limit){.since = now};
    }
    bool ok = l->said < FY_LOG_LIMIT;
    if (ok)
        l->said++;
    else
        l->left_out++;
    pthread_mutex_unlock(&lock);
    return ok;
}

void fy_log_limited(struct fy_log_limit *limit, enum fy_log_level level, const char *fmt, ...)
{
    uint64_t left_out;
    if (!within(limit, &left_out))
        return;
    if (left_out)
        fy_log(level, "%" PRIu64 " lines like the next one were left out", left_out);
    va_list ap;
    va_start(ap, fmt);
    log_line(level, fmt, ap);
    va_end(ap);
}
