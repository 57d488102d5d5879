// SPDX-License-Identifier: Apache-2.0
/* Network cards of a description: what it leaves open, what cannot be, and the making of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/backend/net.h"
#include "hv/base/checked.h"
#include "hv/base/crc32c.h"
#include "hv/base/io.h"
#include "hv/dev/platform.h"
#include "hv/dev/tokens.h"
#include "hv/vm/internal.h"

#define MTU_MIN 68u /* RFC 791 */
#define MTU_MAX 65535u

void fy_nic_mac(const uint8_t uuid[16], unsigned index, uint8_t mac[6])
{
    uint8_t seed[17];
    memcpy(seed, uuid, 16);
    seed[16] = (uint8_t)index;
    uint32_t a = fy_crc32c(0, seed, sizeof seed);
    uint32_t b = fy_crc32c(a, seed, sizeof seed);
    mac[0] = 0x02; /* locally administered, of one station */
    mac[1] = (uint8_t)b;
    mac[2] = (uint8_t)(a >> 24);
    mac[3] = (uint8_t)(a >> 16);
    mac[4] = (uint8_t)(a >> 8);
    mac[5] = (uint8_t)a;
}

int fy_nics_complete(Ferry__Machine *d, struct fy_err *e)
{
    for (size_t i = 0; i < d->n_nics; i++) {
        Ferry__Nic *n = d->nics[i];
        if (n->mac.len || d->uuid.len != 16)
            continue;
        n->mac.data = malloc(6);
        if (!n->mac.data)
            return fy_fail(e, FY_ERESOURCE, "no memory for a card's address");
        n->mac.len = 6;
        fy_nic_mac(d->uuid.data, (unsigned)i, n->mac.data);
    }
    return 0;
}

static unsigned pairs_of(const Ferry__Nic *n)
{
    return n->queues ? n->queues : 1;
}

static void check_nic(const Ferry__Nic *n, unsigned i, struct fy_err *why)
{
    bool user = !strcmp(n->kind, "user");
    if (!user && strcmp(n->kind, "tap") != 0 && strcmp(n->kind, "bridge") != 0)
        fy_reason_add(why, FY_EREFUSED,
                      "net%u: a network of kind \"%s\" is not known here (user, tap, bridge)", i, n->kind);
    if (n->mac.len && (n->mac.len != 6 || n->mac.data[0] & 1))
        fy_reason_add(why, FY_EREFUSED, "net%u: its MAC address is no station's", i);
    if (pairs_of(n) > (user ? 1 : FY_NET_PAIRS_MAX))
        fy_reason_add(why, FY_EREFUSED, "net%u: %u queues (at most %u here)", i, n->queues,
                      user ? 1 : FY_NET_PAIRS_MAX);
    if (n->mtu && (n->mtu < MTU_MIN || n->mtu > MTU_MAX))
        fy_reason_add(why, FY_EREFUSED, "net%u: an MTU of %u (%u to %u)", i, n->mtu, MTU_MIN, MTU_MAX);
    if (n->rate && (n->rate < FY_TOKENS_RATE_MIN || n->rate > FY_TOKENS_RATE_MAX))
        fy_reason_add(why, FY_EREFUSED, "net%u: a limit of %llu bytes/s (%u at least)", i,
                      (unsigned long long)n->rate, FY_TOKENS_RATE_MIN);
}

void fy_nics_check(const Ferry__Machine *d, struct fy_err *why)
{
    if (d->n_nics > FY_NICS_MAX)
        fy_reason_add(why, FY_EREFUSED, "%zu network cards (at most %u)", d->n_nics, FY_NICS_MAX);
    for (size_t i = 0; i < d->n_nics && i < FY_NICS_MAX; i++)
        check_nic(d->nics[i], (unsigned)i, why);
}

bool fy_nics_expect(const Ferry__Machine *d, const char *id)
{
    char name[16];
    for (size_t i = 0; i < d->n_nics && i < FY_NICS_MAX; i++) {
        snprintf(name, sizeof name, "net%u", (unsigned)i);
        if (!strcmp(id, name))
            return true;
    }
    return false;
}

static struct fy_net_backend *open_backend(struct fy_machine *m, unsigned i, struct fy_err *e)
{
    const Ferry__Nic *n = m->desc->nics[i];
    int *fds = m->nic_fds[i];
    unsigned pairs = pairs_of(n);
    struct fy_net_backend *b;
    if (!strcmp(n->kind, "user"))
        b = fy_net_sock_new(fds[0], e);
    else
        b = fy_net_tap_new(fds, pairs, e);
    for (unsigned p = 0; p < pairs; p++)
        fds[p] = -1;
    return b;
}

int fy_nics_make(struct fy_machine *m, struct fy_err *e)
{
    for (unsigned i = 0; i < m->desc->n_nics; i++) {
        const Ferry__Nic *n = m->desc->nics[i];
        char id[16];
        snprintf(id, sizeof id, "net%u", i);
        struct fy_virtio_net_config c = {.id = id,
                                         .slot = FY_SLOT_NIC0 + i,
                                         .pairs = pairs_of(n),
                                         .mtu = (uint16_t)n->mtu,
                                         .rate = n->rate,
                                         .backend = open_backend(m, i, e),
                                         .gate = m->gate,
                                         .link_lost = m->nic_lost,
                                         .arg = m->arg};
        if (!c.backend)
            return fy_fail_prefix(e, "%s", id);
        memcpy(c.mac, n->mac.data, 6);
        m->nics[i] = &m->devices[m->device_count];
        if (fy_virtio_net_new(m->pci, m->gmem, &c, m->nics[i], e) < 0)
            return -1;
        m->device_count++;
    }
    return 0;
}

void fy_nics_close(struct fy_machine *m)
{
    for (unsigned i = 0; i < FY_NICS_MAX; i++)
        for (unsigned p = 0; p < FY_NET_PAIRS_MAX; p++)
            fy_close(&m->nic_fds[i][p]);
}

unsigned fy_machine_nics(struct fy_machine *m)
{
    return (unsigned)m->desc->n_nics;
}

struct fy_device *fy_machine_nic(struct fy_machine *m, unsigned i)
{
    return i < m->desc->n_nics ? m->nics[i] : NULL;
}

void fy_machine_set_nic_rate(struct fy_machine *m, unsigned i, uint64_t rate)
{
    m->desc->nics[i]->rate = rate;
    fy_virtio_net_set_rate(m->nics[i], rate);
}
