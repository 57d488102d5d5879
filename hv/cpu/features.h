// SPDX-License-Identifier: Apache-2.0
/* The table of CPUID feature bits that CPU models are built from. */
#ifndef FERRY_CPU_FEATURES_H
#define FERRY_CPU_FEATURES_H

#include <stddef.h>
#include <stdint.h>

enum { FY_EAX, FY_EBX, FY_ECX, FY_EDX };

/* A register whose bits are features. */
struct fy_feature_word {
    uint32_t function, index;
    unsigned reg;
    const char *name;   /* "1.ECX" */
    uint32_t never;     /* bits that no policy may have: their state does not travel yet */
    uint32_t volatile_; /* bits that the engine fills in and nobody compares */
};

struct fy_feature {
    uint8_t word; /* index into fy_feature_words */
    uint8_t bit;
    uint8_t level; /* 1..3: first x86-64 level that has it; 0: only `host` */
    const char *name;
};

extern const struct fy_feature_word fy_feature_words[];
extern const size_t fy_feature_word_count;
extern const struct fy_feature fy_features[];
extern const size_t fy_feature_count;

/* Name of a bit, or NULL. */
const char *fy_feature_name(size_t word, unsigned bit);

#endif
