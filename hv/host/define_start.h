// SPDX-License-Identifier: Apache-2.0
/* Between define.c, define_api.c and define_start.c. */
#ifndef FERRY_HOST_DEFINE_START_H
#define FERRY_HOST_DEFINE_START_H

#include "hv/host/define.h"

/* A new record; *from is empty afterwards. NULL: no memory. */
struct fyd_def *fyd_def_new(struct fyd *d, struct fy_def *from);
/* Forget it, with its files; the row is the caller's to delete. */
void fyd_def_delete(struct fyd_def *def);
/* A start by itself has failed: try again as after a crash, where it says so. */
void fyd_def_start_failed(struct fyd_def *def);
/* The request that starts it; it points into the definition. */
void fyd_def_fill(const struct fy_def *def, Ferry__ApiStart *op);

#endif
