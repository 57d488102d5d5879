// SPDX-License-Identifier: Apache-2.0
/* What names and describes a disk with a server: an NBD URI, which a peer's description may hold, or (input
 * that begins with a qcow2 image's magic) the header of an image. */
#include <string.h>

#include "hv/define/nbd_uri.h"
#include "hv/host/qcow2.h"
#include "tests/fuzz/fuzz.h"

static void header(const uint8_t *data, size_t size)
{
    struct fy_err e = {0};
    uint64_t bytes = 0;
    size_t len = size < FYD_QCOW2_HEADER ? size : FYD_QCOW2_HEADER;
    uint8_t *h = malloc(len); /* so that a read behind it is found */
    MUST(h);
    memcpy(h, data, len);
    if (fyd_qcow2_bytes(h, len, &bytes, &e) == 0)
        MUST(bytes && bytes % 512 == 0 && bytes <= INT64_MAX);
    else
        MUST(e.code == FY_EUSAGE && e.text[0]);
    free(h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fy_nbd_uri u;
    struct fy_err e = {0};
    if (size >= 4 && !memcmp(data, "QFI\xfb", 4)) {
        header(data, size);
        return 0;
    }
    char *text = malloc(size + 1);
    MUST(text);
    memcpy(text, data, size);
    text[size] = 0;
    bool is = fy_nbd_uri_is(text);
    if (fy_nbd_uri_parse(text, &u, &e) == 0) {
        MUST(is && !*u.host != !*u.socket);
        MUST(memchr(u.host, 0, sizeof u.host) && memchr(u.port, 0, sizeof u.port));
        MUST(memchr(u.socket, 0, sizeof u.socket) && memchr(u.export_name, 0, sizeof u.export_name));
        MUST(!*u.host || (*u.port && fy_nbd_uri_below(text, "nbd://")));
    } else {
        MUST(e.code && e.text[0]);
    }
    fy_nbd_uri_below(text, "nbd://host/a");
    free(text);
    return 0;
}
