// SPDX-License-Identifier: Apache-2.0
/* Where an NBD server's export is, as the NBD project's URI specification writes it (doc/uri.md). */
#ifndef FERRY_DEFINE_NBD_URI_H
#define FERRY_DEFINE_NBD_URI_H

#include <stdbool.h>
#include <stddef.h>

#include "hv/base/err.h"

struct fy_nbd_uri {
    char host[256]; /* "": a unix socket */
    char port[8];
    char socket[4096];      /* absolute path */
    char export_name[1024]; /* "": the server's default */
};

/* Does text begin like a URI of this kind (nbd, nbds, nbd+unix, ...)? Pure. */
bool fy_nbd_uri_is(const char *text);
/* nbd://HOST[:PORT][/EXPORT] or nbd+unix:///[EXPORT]?socket=PATH, percent-encoded. FY_EUSAGE, or
 * FY_EUNSUPPORTED for nbds and others that are not spoken here. Pure. */
int fy_nbd_uri_parse(const char *text, struct fy_nbd_uri *u, struct fy_err *e);
/* Is text, a URI over TCP, one of those that `allowed` ("nbd://", "nbd://HOST[:PORT][/FOLDER/]") stands for?
 * A prefix, which ends where a host, port or export ends or with a slash. Pure. */
bool fy_nbd_uri_below(const char *text, const char *allowed);

#endif
