// SPDX-License-Identifier: Apache-2.0
/* Targets that load state and go on with it. What such a target says of its input here lets the fuzzer change
 * single fields of the state in it (mutate.c), so that a good part of what it makes is taken, and what was
 * taken is counted: the counts are printed at the program's end. */
#ifndef FERRY_TESTS_FUZZ_LOADS_H
#define FERRY_TESTS_FUZZ_LOADS_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#define FUZZ_KINDS 8

struct fuzz_loads {
    unsigned head;  /* bytes before the state; the first one, modulo `kinds`, is the kind */
    bool counted;   /* a u16 with its length is in front of the state, and operations are behind it */
    unsigned kinds; /* 1 at least */
    struct {
        const char *name;
        const ProtobufCMessageDescriptor *type;
        const ProtobufCMessageDescriptor *device; /* of VirtioDevice.device; NULL: no message */
    } kind[FUZZ_KINDS];
};

/* Defined by each such target. */
extern const struct fuzz_loads fuzz_loads;

/* Which kind an input with this first byte is of; FERRY_FUZZ_KIND in the environment, a number, makes all of
 * that kind. */
unsigned fuzz_kind(uint8_t first);
/* The device has been given this state, and has taken it or not. */
void fuzz_load_tried(unsigned kind, const uint8_t *state, size_t len, bool taken);
/* How many operations are to come after that: FERRY_FUZZ_OPERATIONS in the environment, or a thousand. */
#define FUZZ_OPERATIONS 1000
unsigned fuzz_operations_wanted(void);
/* So many came. */
void fuzz_operations(unsigned count);
/* A state that the device itself has saved: others are made of it. */
void fuzz_load_offer(unsigned kind, const uint8_t *state, size_t len);

/* Some state of those that were taken or saved lately; NULL while there is none. */
const uint8_t *fuzz_load_known(unsigned kind, uint32_t random, size_t *len);
/* The type of the message that field f of *m, of bytes, holds; NULL: none. */
const ProtobufCMessageDescriptor *fuzz_load_inside(const ProtobufCMessage *m,
                                                   const ProtobufCFieldDescriptor *f, unsigned kind);

#endif
