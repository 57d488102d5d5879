// SPDX-License-Identifier: Apache-2.0
/* Fixed layouts that cross hosts and files, with their limits. All integers little endian.
 * Source: docs/spec/stream.md. */
#ifndef FERRY_PROTO_WIRE_H
#define FERRY_PROTO_WIRE_H

#include <stdint.h>

/* The preface: the first 32 bytes of every peer connection, in clear, all that ferryd ever reads of a
 * peer. Layout: magic[8], kind u16, channel u16, reserved u32 (0), job id[16]. */
#define FY_PREFACE_LEN 32
#define FY_PREFACE_MAGIC "FERRY\x01\r\n"
enum fy_preface_kind {
    FY_PREFACE_MIGRATE = 1, /* channel 0: control; 1..N: data */
    FY_PREFACE_QUERY = 2,
    FY_PREFACE_PAIR = 3,
    FY_PREFACE_CONSOLE = 4,
};

/* Stream versions that this build speaks. */
#define FY_STREAM_VERSION_MIN 1
#define FY_STREAM_VERSION_MAX 2
#define FY_STREAM_VERSION_SEALED 2 /* from here on PAGES records may be SEALED */

/* Record header, 32 bytes: type u16, flags u16, length u32 (of the body), crc32c u32 (of the header with
 * this field zero, then the body), generation u32, sequence u64 (from 0, by channel and direction),
 * reserved u64 (0). */
#define FY_RECORD_HEADER 32
#define FY_RECORD_OPTIONAL 1u /* flags bit 0: a reader that does not know the type skips it */
#define FY_RECORD_SEALED                                                                                     \
    2u /* flags bit 1, raw PAGES over TLS only: the checksum ends before the pages, which TLS's covers */

#define FY_RECORD_BODY_MAX (2u * 1024 * 1024)  /* any record */
#define FY_RECORD_PROTO_MAX (1u * 1024 * 1024) /* a protobuf body */

enum fy_record {
    /* control channel */
    FY_REC_HELLO = 1,
    FY_REC_HELLO_REPLY = 2,
    FY_REC_DESCRIPTION = 3,
    FY_REC_VERDICT = 4,
    FY_REC_STATE = 5, /* a piece of the StateFile, in order */
    FY_REC_STATE_END = 6,
    FY_REC_READY = 7,
    FY_REC_COMMIT = 8,
    FY_REC_RUNNING = 9,
    FY_REC_ERROR = 10,
    FY_REC_RATE = 11,
    FY_REC_TICKET = 12, /* first record of a data channel: HMAC-SHA-256(ticket, "channel" || number) */
    FY_REC_FRAMES = 13, /* after RUNNING */
    /* data channels */
    FY_REC_PAGES = 32,   /* see fy_pages */
    FY_REC_ZERO = 33,    /* runs of zero pages: {first u64, count u64}[] */
    FY_REC_BARRIER = 34, /* round u64 */
    /* room kept: post-copy page requests 48.., epochs 64.., disk blocks 80.. */
    /* peer calls and pairing */
    FY_REC_QUERY = 112,
    FY_REC_ANSWER = 113,
    FY_REC_PAIR = 114,
    FY_REC_PAIR_REPLY = 115,
    FY_REC_CONSOLE_OPEN = 116,
    FY_REC_CONSOLE_OPENED = 117,
    FY_REC_CONSOLE_BYTES = 118, /* empty: the end */
};

/* PAGES body: codec u16, runs u16, raw length u32 (pages * 4096), then runs of {first page u64, count u32,
 * reserved u32}, then the packed bytes to the record's end. Pages in run order. */
#define FY_PAGES_HEADER 8
#define FY_PAGES_RUN 16
#define FY_PAGES_RUNS_MAX 256
#define FY_PAGES_MAX 256 /* pages in a record: 1 MiB raw */
#define FY_ZERO_RUNS_MAX 4096

enum fy_codec { FY_CODEC_NONE = 0, FY_CODEC_LZ4 = 1, FY_CODEC_ZSTD = 2 };

#define FY_CHANNELS_MAX 16
#define FY_MEMORY_MAX (1ull << 40)
#define FY_FIRMWARE_AREA_MAX (8ull << 20)
#define FY_IMAGES_AREA_MAX (4ull << 30)
#define FY_VCPUS_MAX 64
#define FY_ICOUNT_NS_MAX 1000000u /* virtual nanoseconds an instruction */
#define FY_STATE_MAX (64u * 1024 * 1024)
#define FY_TICKET_LEN 32
#define FY_JOB_ID_LEN 16

static inline void fy_put16(void *p, uint16_t v)
{
    uint8_t *b = (uint8_t *)p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}

static inline void fy_put32(void *p, uint32_t v)
{
    fy_put16(p, (uint16_t)v);
    fy_put16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}

static inline void fy_put64(void *p, uint64_t v)
{
    fy_put32(p, (uint32_t)v);
    fy_put32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

static inline uint16_t fy_get16(const void *p)
{
    const uint8_t *b = (const uint8_t *)p;
    return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t fy_get32(const void *p)
{
    return fy_get16(p) | (uint32_t)fy_get16((const uint8_t *)p + 2) << 16;
}

static inline uint64_t fy_get64(const void *p)
{
    return fy_get32(p) | (uint64_t)fy_get32((const uint8_t *)p + 4) << 32;
}

#endif
