// SPDX-License-Identifier: Apache-2.0
/* Network cards as the command line and definitions say them. */
#ifndef FERRY_DEFINE_NET_H
#define FERRY_DEFINE_NET_H

#include <stddef.h>

#include "proto/machine.pb-c.h"

#define FY_DEF_NICS_MAX 12
#define FY_DEF_FORWARDS_MAX 32
#define FY_DEF_NIC_HELP                                                                                      \
    "user | tap=NAME | bridge=NAME, then ,mac=XX:XX:XX:XX:XX:XX ,rate=BYTES ,mtu=N ,queues=N and, for "      \
    "user, "                                                                                                 \
    ",forward=tcp|udp:[ADDRESS:]PORT:[ADDRESS:]PORT"

struct fy_def_nic {
    Ferry__Nic nic;
    char *text; /* owned: what nic's strings point into */
    uint8_t mac[6];
    Ferry__NicForward forwards[FY_DEF_FORWARDS_MAX];
    Ferry__NicForward *list[FY_DEF_FORWARDS_MAX];
};

/* Fill *n from a word of -n ("" is "user"). 0, or -1 with why. Free with fy_nic_free in both cases. */
int fy_nic_parse(const char *spec, struct fy_def_nic *n, char *why, size_t room);
void fy_nic_free(struct fy_def_nic *n);
/* Does the word after a -n belong to it? */
int fy_nic_is_spec(const char *word);

/* "tap=t0", "user,forward=tcp:127.0.0.1:2222:22": what was given, without the address. */
void fy_nic_format(const Ferry__Nic *n, char *out, size_t room);
void fy_mac_format(const Ferry__Nic *n, char out[18]);

#endif
