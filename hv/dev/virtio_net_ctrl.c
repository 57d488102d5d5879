// SPDX-License-Identifier: Apache-2.0
/* The control queue (virtio 1.2, 5.1.6.5), what it sets, and the state of that. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/state.h"
#include "hv/dev/virtio_net_internal.h"
#include "proto/wire.h"

enum { CLASS_RX, CLASS_MAC, CLASS_VLAN, CLASS_ANNOUNCE, CLASS_MQ, CLASS_OFFLOADS };
#define ACK_OK 0u
#define ACK_ERR 1u
#define COMMANDS_A_TURN 64u

void net_driver_reset(struct net *n)
{
    memset(&n->d, 0, sizeof n->d);
    memcpy(n->d.mac, n->config.mac, 6);
    n->d.pairs = 1;
}

/* One list of VIRTIO_NET_CTRL_MAC_TABLE_SET at `at` of the chain; where it ends, or 0 where it does not. */
static uint64_t take_list(const struct fy_vq_chain *c, uint64_t at, uint8_t table[][6], unsigned *count,
                          bool *all)
{
    uint8_t head[4];
    if (fy_vq_fetch(c, at, head, 4) != 4)
        return 0;
    uint64_t entries = fy_get32(head);
    at += 4;
    if (!fy_range_ok(at, entries * 6, c->out_bytes))
        return 0;
    *all = entries > NET_ADDRESSES;
    *count = *all ? 0 : (unsigned)entries;
    fy_vq_fetch(c, at, table, 6ull * *count);
    return at + entries * 6;
}

static bool set_addresses(struct net *n, const struct fy_vq_chain *c, unsigned command)
{
    uint8_t mac[6];
    struct net_driver *d = &n->d;
    if (command == 1) {
        if (!(n->features & F_CTRL_MAC_ADDR) || fy_vq_fetch(c, 2, mac, 6) != 6)
            return false;
        memcpy(d->mac, mac, 6);
        return true;
    }
    /* Into a copy: a list that is cut changes nothing. */
    static __thread struct net_driver copy;
    copy = *d;
    uint64_t at = take_list(c, 2, copy.unicast, &copy.unicasts, &copy.all_unicast);
    if (command || !at || !take_list(c, at, copy.multicast, &copy.multicasts, &copy.all_multicast))
        return false;
    *d = copy;
    return true;
}

static bool set_rx_mode(struct net *n, const struct fy_vq_chain *c, unsigned command)
{
    uint8_t on;
    uint64_t needs = command <= RX_ALLMULTI ? F_CTRL_RX : F_CTRL_RX_EXTRA;
    if (command >= RX_COMMANDS || !(n->features & needs) || fy_vq_fetch(c, 2, &on, 1) != 1 || on > 1)
        return false;
    n->d.rx_mode = (n->d.rx_mode & ~(1u << command)) | (uint32_t)on << command;
    return true;
}

static bool set_vlan(struct net *n, const struct fy_vq_chain *c, unsigned command)
{
    uint8_t v[2];
    if (command > 1 || !(n->features & F_CTRL_VLAN) || fy_vq_fetch(c, 2, v, 2) != 2 ||
        fy_get16(v) >= NET_VLANS)
        return false;
    uint8_t bit = (uint8_t)(1u << (fy_get16(v) & 7));
    uint8_t *byte = &n->d.vlans[fy_get16(v) >> 3];
    *byte = command ? *byte & (uint8_t)~bit : *byte | bit;
    n->d.has_vlans = true;
    return true;
}

static bool set_pairs(struct net *n, const struct fy_vq_chain *c, unsigned command)
{
    uint8_t v[2];
    if (command || !(n->features & F_MQ) || fy_vq_fetch(c, 2, v, 2) != 2)
        return false;
    if (!fy_get16(v) || fy_get16(v) > n->config.pairs)
        return false;
    n->d.pairs = fy_get16(v);
    net_configure(n);
    net_again(n);
    return true;
}

static bool set_offloads(struct net *n, const struct fy_vq_chain *c, unsigned command)
{
    uint8_t v[8];
    if (command || !(n->features & F_CTRL_GUEST_OFFLOADS) || fy_vq_fetch(c, 2, v, 8) != 8 ||
        fy_get64(v) & ~(n->features & F_GUEST_OFFLOADS))
        return false;
    n->d.offloads = fy_get64(v);
    net_configure(n);
    return true;
}

static bool command(struct net *n, const struct fy_vq_chain *c)
{
    uint8_t head[2];
    if (fy_vq_fetch(c, 0, head, 2) != 2)
        return false;
    switch (head[0]) {
    case CLASS_RX:
        return set_rx_mode(n, c, head[1]);
    case CLASS_MAC:
        return set_addresses(n, c, head[1]);
    case CLASS_VLAN:
        return set_vlan(n, c, head[1]);
    case CLASS_ANNOUNCE:
        if (head[1] || !(n->features & F_GUEST_ANNOUNCE))
            return false;
        n->d.announce = false;
        return true;
    case CLASS_MQ:
        return set_pairs(n, c, head[1]);
    case CLASS_OFFLOADS:
        return set_offloads(n, c, head[1]);
    default:
        return false;
    }
}

void net_ctrl(struct net *n, unsigned queue)
{
    struct fy_vq *q = fy_virtio_queue(n->v, queue);
    struct fy_vq_chain *c = &n->chain[0];
    unsigned turn = 0;
    while (turn < COMMANDS_A_TURN) {
        int got = fy_vq_pop(q, c);
        if (got == FY_VQ_EMPTY && fy_vq_enable_kicks(q))
            continue;
        if (got != FY_VQ_GOT)
            break;
        const uint8_t ack = command(n, c) ? ACK_OK : ACK_ERR;
        fy_vq_put(q, c, (uint32_t)fy_vq_store(c, 0, &ack, 1));
        turn++;
    }
    if (turn == COMMANDS_A_TURN)
        fy_virtio_again(n->v, queue);
    fy_virtio_notify(n->v, queue);
}

static bool listed(const uint8_t table[][6], unsigned count, const uint8_t *mac)
{
    for (unsigned i = 0; i < count; i++)
        if (!memcmp(table[i], mac, 6))
            return true;
    return false;
}

static bool on(const struct net_driver *d, unsigned bit)
{
    return d->rx_mode >> bit & 1;
}

bool net_wants(const struct net *n, const uint8_t *frame, uint32_t len)
{
    static const uint8_t everyone[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const struct net_driver *d = &n->d;
    if (len < FY_NET_FRAME_MIN)
        return true; /* to be counted */
    bool tagged = len >= 18 && frame[12] == 0x81 && frame[13] == 0;
    if (tagged && n->features & F_CTRL_VLAN) {
        unsigned v = (unsigned)(frame[14] & 15) << 8 | frame[15];
        if (v && !(d->vlans[v >> 3] >> (v & 7) & 1))
            return false;
    }
    /* A driver that cannot say what it wants gets all. */
    if (!(n->features & F_CTRL_RX) || on(d, RX_PROMISC))
        return true;
    if (!memcmp(frame, everyone, 6))
        return !on(d, RX_NOBCAST);
    if (frame[0] & 1)
        return !on(d, RX_NOMULTI) &&
               (on(d, RX_ALLMULTI) || d->all_multicast || listed(d->multicast, d->multicasts, frame));
    return !on(d, RX_NOUNI) && (on(d, RX_ALLUNI) || d->all_unicast || !memcmp(frame, d->mac, 6) ||
                                listed(d->unicast, d->unicasts, frame));
}

int net_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct net *n = dev;
    struct net_driver *d = &n->d;
    Ferry__VirtioNet m = FERRY__VIRTIO_NET__INIT;
    m.mac = (ProtobufCBinaryData){6, d->mac};
    m.pairs = d->pairs;
    m.offloads = d->offloads;
    m.rx_mode = d->rx_mode;
    m.unicast = (ProtobufCBinaryData){6ull * d->unicasts, d->unicast[0]};
    m.multicast = (ProtobufCBinaryData){6ull * d->multicasts, d->multicast[0]};
    m.all_unicast = d->all_unicast;
    m.all_multicast = d->all_multicast;
    if (d->has_vlans)
        m.vlans = (ProtobufCBinaryData){sizeof d->vlans, d->vlans};
    m.announce = d->announce;
    return fy_state_pack(&m.base, buf, len, e);
}

static bool list_ok(const ProtobufCBinaryData *b)
{
    return b->len % 6 == 0 && b->len / 6 <= NET_ADDRESSES;
}

int net_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct net *n = dev;
    struct net_driver *d = &n->d;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__virtio_net__descriptor, n->id, buf, len, e);
    if (!msg)
        return -1;
    const Ferry__VirtioNet *m = (const Ferry__VirtioNet *)msg;
    if (m->mac.len != 6 || !m->pairs || m->pairs > n->config.pairs || m->offloads & ~F_GUEST_OFFLOADS ||
        m->rx_mode >> RX_COMMANDS || !list_ok(&m->unicast) || !list_ok(&m->multicast) ||
        (m->all_unicast && m->unicast.len) || (m->all_multicast && m->multicast.len) ||
        (m->vlans.len && m->vlans.len != sizeof d->vlans)) {
        protobuf_c_message_free_unpacked(msg, NULL);
        return fy_fail(e, FY_ECORRUPT, "%s: what its driver has set cannot be", n->id);
    }
    memset(d, 0, sizeof *d);
    memcpy(d->mac, m->mac.data, 6);
    d->pairs = m->pairs;
    d->offloads = m->offloads;
    d->rx_mode = m->rx_mode;
    d->unicasts = (unsigned)(m->unicast.len / 6);
    d->multicasts = (unsigned)(m->multicast.len / 6);
    if (d->unicasts)
        memcpy(d->unicast, m->unicast.data, m->unicast.len);
    if (d->multicasts)
        memcpy(d->multicast, m->multicast.data, m->multicast.len);
    d->all_unicast = m->all_unicast;
    d->all_multicast = m->all_multicast;
    d->has_vlans = m->vlans.len;
    if (d->has_vlans)
        memcpy(d->vlans, m->vlans.data, m->vlans.len);
    d->announce = m->announce;
    n->loaded = true;
    protobuf_c_message_free_unpacked(msg, NULL);
    return 0;
}
