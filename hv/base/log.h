// SPDX-License-Identifier: Apache-2.0
/* One line a message to stderr: "2026-01-01T00:00:00.000Z program[pid] level: text". */
#ifndef FERRY_BASE_LOG_H
#define FERRY_BASE_LOG_H

enum fy_log_level { FY_LOG_ERROR, FY_LOG_WARN, FY_LOG_INFO, FY_LOG_DEBUG };

/* Name the program and set the level (FERRY_LOG=error|warn|info|debug wins over it). Call once,
 * before threads start. `program` must outlive the process. */
void fy_log_init(const char *program, enum fy_log_level level);

/* Write one line with a single write(2). Any thread. */
void fy_log(enum fy_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define fy_error(...) fy_log(FY_LOG_ERROR, __VA_ARGS__)
#define fy_warn(...) fy_log(FY_LOG_WARN, __VA_ARGS__)
#define fy_info(...) fy_log(FY_LOG_INFO, __VA_ARGS__)
#define fy_debug(...) fy_log(FY_LOG_DEBUG, __VA_ARGS__)

#endif
