// SPDX-License-Identifier: Apache-2.0
/* What vmctl prints: JSON objects with correct escaping, and tables. One thread. */
#ifndef FERRY_CLI_OUT_H
#define FERRY_CLI_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CLI_JSON_DEPTH 16

/* A JSON document under construction, written as it grows. */
struct cli_json {
    FILE *f;
    unsigned depth;
    bool more[CLI_JSON_DEPTH]; /* a member was written at this depth */
};

/* Begin a document: "{"schema":1" of a top-level object. */
struct cli_json cli_json_begin(FILE *f);
/* Close everything that is open, end the line, flush. */
void cli_json_end(struct cli_json *j);

/* Members of the object that is open (key NULL: elements of the array that is open). */
void cli_json_object(struct cli_json *j, const char *key);
void cli_json_array(struct cli_json *j, const char *key);
void cli_json_close(struct cli_json *j, char bracket);
void cli_json_string(struct cli_json *j, const char *key, const char *value);
void cli_json_u64(struct cli_json *j, const char *key, uint64_t value);
void cli_json_i64(struct cli_json *j, const char *key, int64_t value);
void cli_json_bool(struct cli_json *j, const char *key, bool value);
/* Nanoseconds as milliseconds with three digits. */
void cli_json_ms(struct cli_json *j, const char *key, uint64_t ns);
void cli_json_double(struct cli_json *j, const char *key, double value, int digits);
void cli_json_null(struct cli_json *j, const char *key);

/* A JSON string literal of text: UTF-8 stays, bytes that are none become U+FFFD, controls are escaped. */
void cli_json_quote(FILE *f, const char *text);

/* A table: cells are collected and printed with columns as wide as they must be. A new one is all zero. */
struct cli_table {
    char **cells;
    size_t count, room;
    unsigned columns;
    unsigned numeric; /* bit i: column i is flush right */
};
/* The first `columns` cells are the heading. Text is copied, control characters replaced by '?'. */
void cli_table_cell(struct cli_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cli_table_print(const struct cli_table *t, FILE *f);
/* Free the cells; the table is all zero again. */
void cli_table_free(struct cli_table *t);

/* "512M", "1.5G", "0": for people. out: at least 16 bytes. */
const char *cli_size(uint64_t bytes, char *out);
/* "1.234 s", "12.3 ms", "850 us". out: at least 24 bytes. */
const char *cli_time(uint64_t ns, char *out);

#endif
