// SPDX-License-Identifier: Apache-2.0
/* Network cards as the command line has them. */
#ifndef FERRY_CLI_NET_H
#define FERRY_CLI_NET_H

#include <stddef.h>

#include "proto/api.pb-c.h"

#define CLI_NICS_MAX 12
#define CLI_FORWARDS_MAX 32
#define CLI_NIC_HELP                                                                                         \
    "user | tap=NAME | bridge=NAME, then ,mac=XX:XX:XX:XX:XX:XX ,rate=BYTES ,mtu=N ,queues=N and, for "      \
    "user, "                                                                                                 \
    ",forward=tcp|udp:[ADDRESS:]PORT:[ADDRESS:]PORT"

struct cli_nic {
    Ferry__Nic nic;
    char *text; /* owned: what nic's strings point into */
    uint8_t mac[6];
    Ferry__NicForward forwards[CLI_FORWARDS_MAX];
    Ferry__NicForward *list[CLI_FORWARDS_MAX];
};

/* Fill *n from a word of -n ("" is "user"). 0, or -1 with why. Free with cli_nic_free in both cases. */
int cli_nic_parse(const char *spec, struct cli_nic *n, char *why, size_t room);
void cli_nic_free(struct cli_nic *n);
/* Does the word after a -n belong to it? */
int cli_nic_is_spec(const char *word);

/* "tap=t0", "user,forward=tcp:127.0.0.1:2222:22": what was given, without the address. */
void cli_nic_format(const Ferry__Nic *n, char *out, size_t room);
void cli_mac_format(const Ferry__Nic *n, char out[18]);

#endif
