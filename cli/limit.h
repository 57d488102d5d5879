// SPDX-License-Identifier: Apache-2.0
/* The part of `vmctl set` that acts on a guest while it runs. */
#ifndef FERRY_CLI_LIMIT_H
#define FERRY_CLI_LIMIT_H

#include "cli/cli.h"

/* Its options, ended by a zero entry; none is below 400. */
extern const struct option cli_limit_options[];

/* Initialise with CLI_LIMIT_INIT. op points into the struct. */
struct cli_limit {
    Ferry__ApiLimit op;
    Ferry__Limits limits;
};
#define CLI_LIMIT_INIT                                                                                       \
    {                                                                                                        \
        FERRY__API_LIMIT__INIT, FERRY__LIMITS__INIT                                                          \
    }

/* Take one option with its optarg, which must stay. 0 or FY_EUSAGE (told). */
int cli_limit_option(struct cli *c, struct cli_limit *l, int option);
/* Ask the daemon, for guest c->name. 0 or the code (told). */
int cli_limit_send(struct cli *c, struct cli_limit *l);

#endif
