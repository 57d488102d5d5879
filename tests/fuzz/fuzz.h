// SPDX-License-Identifier: Apache-2.0
/* Shared by the fuzz targets. */
#ifndef FERRY_TESTS_FUZZ_H
#define FERRY_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold whatever the input is; a violation ends the program, as the fuzzer expects. */
#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: violated: %s\n", __FILE__, __LINE__, #cond);                             \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

#endif
