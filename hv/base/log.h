// SPDX-License-Identifier: Apache-2.0
/* One line a message to stderr: "2026-01-01T00:00:00.000Z program[pid] level: text". */
#ifndef FERRY_BASE_LOG_H
#define FERRY_BASE_LOG_H

#include <stdint.h>

enum fy_log_level { FY_LOG_ERROR, FY_LOG_WARN, FY_LOG_INFO, FY_LOG_DEBUG };

/* Name the program and set the level (FERRY_LOG=error|warn|info|debug wins over it). Call once,
 * before threads start. `program` must outlive the process. */
void fy_log_init(const char *program, enum fy_log_level level);

/* Write one line with a single write(2). Any thread. */
void fy_log(enum fy_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For what a guest or a peer can bring about as often as it likes: of one place in the program FY_LOG_LIMIT
 * lines in FY_LOG_LIMIT_S seconds are written; the next one that is says how many were not. Any thread. */
#define FY_LOG_LIMIT 10u
#define FY_LOG_LIMIT_S 60u
struct fy_log_limit {
    uint64_t since; /* when the seconds began, ns of fy_now_ns; 0: not yet */
    unsigned said;
    uint64_t left_out;
};
void fy_log_limited(struct fy_log_limit *limit, enum fy_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define fy_warn_limited(...)                                                                                 \
    do {                                                                                                     \
        static struct fy_log_limit limit_;                                                                   \
        fy_log_limited(&limit_, FY_LOG_WARN, __VA_ARGS__);                                                   \
    } while (0)

#define fy_error(...) fy_log(FY_LOG_ERROR, __VA_ARGS__)
#define fy_warn(...) fy_log(FY_LOG_WARN, __VA_ARGS__)
#define fy_info(...) fy_log(FY_LOG_INFO, __VA_ARGS__)
#define fy_debug(...) fy_log(FY_LOG_DEBUG, __VA_ARGS__)

#endif
