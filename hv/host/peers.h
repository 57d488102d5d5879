// SPDX-License-Identifier: Apache-2.0
/* Pure parts of the peers' port, apart for their tests. */
#ifndef FERRY_HOST_PEERS_H
#define FERRY_HOST_PEERS_H

#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "proto/wire.h"

struct fyd_preface {
    uint16_t kind;
    uint16_t channel;
    uint8_t id[16];
};

/* Read and check a preface (docs/spec/stream.md). -1 with FY_ECORRUPT. */
int fyd_preface_parse(const uint8_t buf[FY_PREFACE_LEN], struct fyd_preface *p, struct fy_err *e);

/* "host:port" or "[v6]:port" apart; FY_EUSAGE for anything else. */
int fyd_address_split(const char *address, char *host, size_t room, char port[8], struct fy_err *e);

#endif
