// SPDX-License-Identifier: Apache-2.0
#include "hv/define/nbd_uri.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TCP "nbd://"
#define UNIX "nbd+unix://"
#define DEFAULT_PORT "10809" /* IANA's */

static bool begins(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

bool fy_nbd_uri_is(const char *text)
{
    const char *colon = strstr(text, "://");
    size_t n = colon ? (size_t)(colon - text) : 0;
    return n >= 3 && begins(text, "nbd") && strspn(text, "abcdefghijklmnopqrstuvwxyz+") == n;
}

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* [text, text + n) without its percent-encoding. False: too long, wrong, or with a control character. */
static bool decode(const char *text, size_t n, char *out, size_t room)
{
    size_t o = 0;
    for (size_t i = 0; i < n; i++) {
        int c = (uint8_t)text[i];
        if (c == '%') {
            int high = i + 2 < n ? digit(text[i + 1]) : -1;
            int low = high >= 0 ? digit(text[i + 2]) : -1;
            if (low < 0)
                return false;
            c = high * 16 + low;
            i += 2;
        }
        if (c < ' ' || c == 0x7f || o + 1 >= room)
            return false;
        out[o++] = (char)c;
    }
    out[o] = 0;
    return true;
}

static int wrong(const char *text, const char *what, struct fy_err *e)
{
    return fy_fail(e, FY_EUSAGE, "%s: %s (nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH)", text,
                   what);
}

static bool port_ok(const char *p, size_t n)
{
    return n > 0 && n <= 5 && strspn(p, "0123456789") >= n && strtoul(p, NULL, 10) <= 65535 &&
           strtoul(p, NULL, 10) > 0;
}

/* HOST[:PORT], HOST an address of IPv6 in brackets or without a colon. */
static int parse_authority(const char *text, const char *a, size_t n, struct fy_nbd_uri *u, struct fy_err *e)
{
    const char *close = a[0] == '[' ? memchr(a, ']', n) : NULL;
    const char *host = close ? a + 1 : a;
    const char *colon = close ? close + 1 : memchr(a, ':', n);
    size_t host_len = close ? (size_t)(close - host) : colon ? (size_t)(colon - a) : n;
    if (close && colon == a + n)
        colon = NULL;
    if (memchr(a, '@', n) || memchr(a, '%', n))
        return wrong(text, "users and encoded hosts are not known here", e);
    if (!host_len || !decode(host, host_len, u->host, sizeof u->host) || strchr(u->host, ' '))
        return wrong(text, "no host is named", e);
    snprintf(u->port, sizeof u->port, "%s", DEFAULT_PORT);
    if (!colon)
        return 0;
    size_t left = (size_t)(a + n - colon);
    if (colon[0] != ':' || !port_ok(colon + 1, left - 1))
        return wrong(text, "the port is no number from 1 to 65535", e);
    snprintf(u->port, sizeof u->port, "%.*s", (int)left - 1, colon + 1);
    return 0;
}

static int parse_socket(const char *text, const char *query, struct fy_nbd_uri *u, struct fy_err *e)
{
    if (!query || !begins(query, "?socket=") || strpbrk(query, "&#"))
        return wrong(text, "the socket's path is said by ?socket=PATH, and nothing else", e);
    query += strlen("?socket=");
    if (!decode(query, strlen(query), u->socket, sizeof u->socket) || u->socket[0] != '/')
        return wrong(text, "the socket is to be named by an absolute path", e);
    return 0;
}

int fy_nbd_uri_parse(const char *text, struct fy_nbd_uri *u, struct fy_err *e)
{
    memset(u, 0, sizeof *u);
    bool tcp = begins(text, TCP);
    if (!tcp && !begins(text, UNIX))
        return fy_fail(e, FY_EUNSUPPORTED, "%.200s: not spoken here (nbd:// and nbd+unix:// are)", text);
    const char *a = text + strlen(tcp ? TCP : UNIX);
    size_t n = strcspn(a, "/?#");
    const char *path = a[n] == '/' ? a + n + 1 : a + n;
    size_t path_len = strcspn(path, "?#");
    const char *query = path[path_len] ? path + path_len : NULL;
    if (tcp && query)
        return wrong(text, "a server by TCP takes no ?socket=", e);
    if (!tcp && n)
        return wrong(text, "a server by a unix socket has no host", e);
    if ((tcp ? parse_authority(text, a, n, u, e) : parse_socket(text, query, u, e)) < 0)
        return -1;
    if (!decode(path, path_len, u->export_name, sizeof u->export_name))
        return wrong(text, "its export's name cannot be read", e);
    return 0;
}

bool fy_nbd_uri_below(const char *text, const char *allowed)
{
    size_t n = strlen(allowed);
    if (!begins(allowed, TCP) || !begins(text, allowed))
        return false;
    return n == strlen(TCP) || allowed[n - 1] == '/' || !text[n] || text[n] == '/' || text[n] == ':';
}
