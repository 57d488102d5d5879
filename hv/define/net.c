// SPDX-License-Identifier: Apache-2.0
#include "hv/define/net.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int fy_nic_is_spec(const char *word)
{
    return word && (!strcmp(word, "user") || !strncmp(word, "user,", 5) || !strncmp(word, "tap=", 4) ||
                    !strncmp(word, "bridge=", 7));
}

static int fail(char *why, size_t room, const char *what, const char *value)
{
    snprintf(why, room, "%s%s", what, value);
    return -1;
}

static int number(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || v < least || v > most)
        return -1;
    *out = v;
    return 0;
}

/* Bytes: "100M". */
static int size(const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (!isdigit((unsigned char)*text) || errno || (*end && (!unit || end[1])) || v > UINT64_MAX >> shift)
        return -1;
    *out = v << shift;
    return 0;
}

static int parse_mac(const char *text, struct fy_def_nic *n)
{
    if (strlen(text) != 17)
        return -1;
    for (unsigned i = 0; i < 6; i++) {
        char *end;
        const char pair[3] = {text[3 * i], text[3 * i + 1], 0};
        n->mac[i] = (uint8_t)strtoul(pair, &end, 16);
        if (end != pair + 2 || !isxdigit((unsigned char)pair[0]) || (i < 5 && text[3 * i + 2] != ':'))
            return -1;
    }
    if (n->mac[0] & 1)
        return -1;
    n->nic.mac = (ProtobufCBinaryData){6, n->mac};
    return 0;
}

static int parse_port(const char *text, uint32_t *port)
{
    uint64_t v;
    if (number(text, 1, 65535, &v) < 0)
        return -1;
    *port = (uint32_t)v;
    return 0;
}

/* "tcp:2222:22", "tcp:127.0.0.1:8080:80", "udp:0.0.0.0:53:10.0.2.15:53" */
static int parse_forward(char *text, struct fy_def_nic *n)
{
    Ferry__NicForward *f = &n->forwards[n->nic.n_forwards];
    char *part[5], *save = NULL;
    unsigned count = 0, at = 1;
    struct in_addr a;
    if (n->nic.n_forwards == FY_DEF_FORWARDS_MAX)
        return -1;
    for (char *p = strtok_r(text, ":", &save); p; p = strtok_r(NULL, ":", &save)) {
        if (count == 5)
            return -1;
        part[count++] = p;
    }
    ferry__nic_forward__init(f);
    if (count < 3 || (strcmp(part[0], "tcp") != 0 && strcmp(part[0], "udp") != 0))
        return -1;
    f->udp = part[0][0] == 'u';
    if (inet_pton(AF_INET, part[at], &a) == 1)
        f->host_address = part[at++];
    if (at >= count || parse_port(part[at++], &f->host_port) < 0)
        return -1;
    if (at < count && inet_pton(AF_INET, part[at], &a) == 1)
        f->guest_address = part[at++];
    if (at + 1 != count || parse_port(part[at], &f->guest_port) < 0)
        return -1;
    n->list[n->nic.n_forwards++] = f;
    n->nic.forwards = n->list;
    return 0;
}

static int parse_option(char *word, struct fy_def_nic *n, char *why, size_t room)
{
    uint64_t v;
    if (!strncmp(word, "mac=", 4))
        return parse_mac(word + 4, n) < 0
                   ? fail(why, room, "mac is like 02:00:00:12:34:56 and no group's, not ", word + 4)
                   : 0;
    if (!strncmp(word, "rate=", 5)) {
        if (size(word + 5, &n->nic.rate) < 0 || (n->nic.rate && n->nic.rate < 1024))
            return fail(why, room, "rate is bytes a second (write it like 100M, 1K at least), not ",
                        word + 5);
        return 0;
    }
    if (!strncmp(word, "mtu=", 4)) {
        if (number(word + 4, 68, 65535, &v) < 0)
            return fail(why, room, "mtu is 68 to 65535, not ", word + 4);
        n->nic.mtu = (uint32_t)v;
        return 0;
    }
    if (!strncmp(word, "queues=", 7)) {
        if (number(word + 7, 1, strcmp(n->nic.kind, "user") != 0 ? 8 : 1, &v) < 0)
            return fail(why, room, "queues is 1 to 8 (a user network has one), not ", word + 7);
        n->nic.queues = (uint32_t)v;
        return 0;
    }
    if (!strncmp(word, "forward=", 8) && !strcmp(n->nic.kind, "user")) {
        char *copy = strdup(word + 8);
        int r = copy ? parse_forward(word + 8, n) : -1;
        if (r < 0)
            fail(why, room, "forward is like tcp:2222:22 or tcp:127.0.0.1:8080:80, not ", copy ? copy : "");
        free(copy);
        return r;
    }
    return fail(why, room, "it has no option ", word);
}

int fy_nic_parse(const char *spec, struct fy_def_nic *n, char *why, size_t room)
{
    memset(n, 0, sizeof *n);
    ferry__nic__init(&n->nic);
    n->text = strdup(*spec ? spec : "user");
    if (!n->text)
        return fail(why, room, "no memory", "");
    char *save = NULL;
    char *word = strtok_r(n->text, ",", &save);
    char *name = word ? strchr(word, '=') : NULL;
    if (name)
        *name++ = 0;
    if (!word || (strcmp(word, "user") != 0 && strcmp(word, "tap") != 0 && strcmp(word, "bridge") != 0) ||
        (name != NULL) == !strcmp(word, "user") || (name && (!*name || strlen(name) > 15)))
        return fail(why, room, "a network is user, tap=NAME or bridge=NAME, not ", spec);
    n->nic.kind = word;
    if (name)
        n->nic.name = name;
    while ((word = strtok_r(NULL, ",", &save)))
        if (parse_option(word, n, why, room) < 0)
            return -1;
    return 0;
}

void fy_nic_free(struct fy_def_nic *n)
{
    free(n->text);
    n->text = NULL;
}

void fy_mac_format(const Ferry__Nic *n, char out[18])
{
    out[0] = 0;
    if (n->mac.len == 6)
        snprintf(out, 18, "%02x:%02x:%02x:%02x:%02x:%02x", n->mac.data[0], n->mac.data[1], n->mac.data[2],
                 n->mac.data[3], n->mac.data[4], n->mac.data[5]);
}

void fy_nic_format(const Ferry__Nic *n, char *out, size_t room)
{
    size_t at = (size_t)snprintf(out, room, "%s%s%s", n->kind, *n->name ? "=" : "", n->name);
    if (n->queues > 1 && at < room)
        at += (size_t)snprintf(out + at, room - at, ",queues=%u", n->queues);
    if (n->mtu && at < room)
        at += (size_t)snprintf(out + at, room - at, ",mtu=%u", n->mtu);
    if (n->rate && at < room)
        at += (size_t)snprintf(out + at, room - at, ",rate=%llu", (unsigned long long)n->rate);
    for (size_t i = 0; i < n->n_forwards && at < room; i++) {
        const Ferry__NicForward *f = n->forwards[i];
        at += (size_t)snprintf(out + at, room - at, ",forward=%s:%s%s%u:%s%s%u", f->udp ? "udp" : "tcp",
                               f->host_address, *f->host_address ? ":" : "", f->host_port, f->guest_address,
                               *f->guest_address ? ":" : "", f->guest_port);
    }
}
