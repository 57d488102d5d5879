// SPDX-License-Identifier: Apache-2.0
/* The network card against a driver and a socket as its network: frames both ways over every ring format,
 * headers that break rules, the control queue, a lost link, a held gate, a move, a limit. */
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/backend/net.h"
#include "hv/dev/tokens.h"
#include "hv/vm/machine.h"
#include "tests/unit/virtio_driver.h"

#define SLOT 20
#define RX 0
#define TX 1
#define CTRL 2
#define SIZE 64
#define F_CSUM 1ull
#define F_GUEST_CSUM 2ull
#define F_GUEST_OFFLOADS_CTRL 4ull
#define F_MTU 8ull
#define F_MAC 0x20ull
#define F_HOST_TSO4 0x800ull
#define F_MRG 0x8000ull
#define F_STATUS 0x10000ull
#define F_CTRL 0x20000ull
#define F_CTRL_RX 0x40000ull
#define F_CTRL_VLAN 0x80000ull
#define F_ANNOUNCE 0x200000ull
#define F_CTRL_MAC 0x800000ull

static const uint8_t mac[6] = {2, 1, 2, 3, 4, 5};
static struct fy_net_backend_ops ops; /* the socket's, of a network that learns */

struct card {
    struct drv d;
    int wire; /* the network's end */
    struct fy_gate *gate;
    unsigned lost;
};

static void on_lost(void *arg)
{
    __atomic_fetch_add(&((struct card *)arg)->lost, 1, __ATOMIC_RELEASE);
}

static void wait_readable(int fd)
{
    struct timeval t = {.tv_sec = 20};
    fd_set s;
    FD_ZERO(&s);
    FD_SET(fd, &s);
    assert_int_equal(select(fd + 1, &s, NULL, NULL, &t), 1);
}

static void open_card(struct card *c, uint64_t rate)
{
    struct fy_err e = {0};
    int sv[2];
    memset(c, 0, sizeof *c);
    drv_init(&c->d);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
    c->wire = sv[1];
    c->gate = fy_gate_new(&e);
    struct fy_net_backend *b = fy_net_sock_new(sv[0], &e);
    assert_non_null(b);
    ops = *b->ops;
    ops.announce = true;
    b->ops = &ops;
    struct fy_virtio_net_config config = {.id = "net0",
                                          .slot = SLOT,
                                          .pairs = 1,
                                          .mtu = 1400,
                                          .rate = rate,
                                          .backend = b,
                                          .gate = c->gate,
                                          .link_lost = on_lost,
                                          .arg = c};
    memcpy(config.mac, mac, 6);
    if (fy_virtio_net_new(c->d.pci, c->d.gmem, &config, &c->d.dev, &e) < 0)
        fail_msg("%s", e.text);
    drv_find(&c->d, SLOT);
    c->d.dev.ops->resume(c->d.dev.dev);
}

static void close_card(struct card *c)
{
    drv_done(&c->d);
    fy_gate_free(c->gate);
    close(c->wire);
}

/* Byte i of frame n; the first six are everyone's address. */
static uint8_t byte_of(unsigned n, uint32_t i)
{
    return i < 6 ? 0xff : (uint8_t)(n * 31 + i * 7 + (i >> 8));
}

static void fill(uint8_t *p, unsigned n, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        p[i] = byte_of(n, i);
    p[12] = 8; /* not tagged */
}

static bool is_frame(const uint8_t *p, unsigned n, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        if (p[i] != (i == 12 ? 8 : byte_of(n, i)))
            return false;
    return true;
}

static void wire_send(struct card *c, unsigned n, uint32_t len, const struct fy_net_hdr *h)
{
    static uint8_t buf[FY_NET_HDR_BYTES + FY_NET_FRAME_MAX];
    memset(buf, 0, FY_NET_HDR_BYTES);
    if (h)
        memcpy(buf, h, sizeof *h);
    fill(buf + FY_NET_HDR_BYTES, n, len);
    assert_int_equal(send(c->wire, buf, FY_NET_HDR_BYTES + len, 0), FY_NET_HDR_BYTES + len);
}

/* The next frame that the card has sent. */
static uint32_t wire_recv(struct card *c, struct fy_net_hdr *h, uint8_t *frame)
{
    static uint8_t buf[FY_NET_HDR_BYTES + FY_NET_FRAME_MAX];
    wait_readable(c->wire);
    ssize_t n = recv(c->wire, buf, sizeof buf, 0);
    assert_true(n > (ssize_t)FY_NET_HDR_BYTES);
    memcpy(h, buf, sizeof *h);
    memcpy(frame, buf + FY_NET_HDR_BYTES, (size_t)n - FY_NET_HDR_BYTES);
    return (uint32_t)n - FY_NET_HDR_BYTES;
}

static bool wire_empty(struct card *c)
{
    uint8_t b;
    return recv(c->wire, &b, 1, MSG_PEEK) < 0;
}

static struct fy_net_status status(struct card *c)
{
    struct fy_net_status s;
    fy_virtio_net_status(&c->d.dev, &s);
    return s;
}

/* Lay header and frame n out in `parts` segments and send it. */
static void guest_send(struct card *c, unsigned n, uint32_t len, const struct fy_net_hdr *h, unsigned parts)
{
    struct drv_seg s[16];
    uint64_t at = DRV_DATA;
    uint32_t all = FY_NET_HDR_BYTES + len, each = all / parts;
    memcpy(drv_at(&c->d, at), h, sizeof *h);
    fill(drv_at(&c->d, at + FY_NET_HDR_BYTES), n, len);
    for (unsigned i = 0; i < parts; i++)
        s[i] = (struct drv_seg){at + (uint64_t)i * each, i + 1 < parts ? each : all - i * each, false};
    drv_do(&c->d, TX, s, parts);
}

#define BEGUN 2 /* frames that `start` has sent */

/* The driver is ready, and the card's thread knows: what comes to the wire from here on is for this driver.
 * Twice, since a kick may overtake that word once. */
static void start(struct card *c, uint64_t features, unsigned queues)
{
    static uint8_t frame[FY_NET_FRAME_MAX];
    const struct fy_net_hdr h = {0};
    struct fy_net_hdr got;
    drv_start(&c->d, features, queues, SIZE);
    for (unsigned i = 0; i < BEGUN; i++) {
        guest_send(c, 0, 60, &h, 1);
        assert_int_equal(wire_recv(c, &got, frame), 60);
    }
}

static const uint64_t formats[] = {
    0, FY_VIRTIO_F_EVENT_IDX, FY_VIRTIO_F_INDIRECT_DESC | FY_VIRTIO_F_EVENT_IDX, FY_VIRTIO_F_RING_PACKED,
    FY_VIRTIO_F_RING_PACKED | FY_VIRTIO_F_EVENT_IDX | FY_VIRTIO_F_INDIRECT_DESC};

static void test_config(void **state)
{
    (void)state;
    struct card c;
    open_card(&c, 0);
    uint64_t f = drv_offered(&c.d);
    assert_int_equal(f & (F_MAC | F_MTU | F_STATUS | F_MRG | F_CSUM | F_HOST_TSO4),
                     F_MAC | F_MTU | F_STATUS | F_MRG | F_CSUM | F_HOST_TSO4);
    assert_int_equal(f & 1ull << 22, 0); /* one pair: no multiqueue */
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(drv_device(&c.d, i, 1), mac[i]);
    assert_int_equal(drv_device(&c.d, 6, 2), 1);
    assert_int_equal(drv_device(&c.d, 8, 2), 1);
    assert_int_equal(drv_device(&c.d, 10, 2), 1400);
    assert_int_equal(drv_device(&c.d, 16, 1), 1);
    close_card(&c);
}

static void test_send(void **state)
{
    (void)state;
    static uint8_t frame[FY_NET_FRAME_MAX];
    for (size_t k = 0; k < FY_ARRAY_LEN(formats); k++) {
        struct card c;
        struct fy_net_hdr h = {0}, got;
        open_card(&c, 0);
        start(&c, formats[k] | F_MAC | F_CSUM | F_HOST_TSO4, 2);
        for (unsigned n = 0; n < 300; n++) {
            uint32_t len = 14 + n * 11 % 1500;
            h = (struct fy_net_hdr){
                .flags = n % 3 ? 0 : FY_NET_NEEDS_CSUM, .csum_start = n % 3 ? 0 : 4, .csum_offset = 6};
            guest_send(&c, n, len, &h, 1 + n % 5);
            assert_int_equal(wire_recv(&c, &got, frame), len);
            assert_true(is_frame(frame, n, len));
            assert_int_equal(got.flags, h.flags);
        }
        h = (struct fy_net_hdr){
            .flags = 1, .gso_type = 1, .gso_size = 1448, .hdr_len = 54, .csum_start = 34, .csum_offset = 16};
        guest_send(&c, 7, 60000, &h, 9);
        assert_int_equal(wire_recv(&c, &got, frame), 60000);
        assert_true(is_frame(frame, 7, 60000));
        assert_int_equal(got.gso_size, 1448);
        assert_int_equal(status(&c).tx.frames, BEGUN + 301);
        assert_int_equal(status(&c).tx.dropped, 0);
        close_card(&c);
    }
}

/* What breaks a rule is taken back and not sent. */
static void test_send_broken(void **state)
{
    (void)state;
    static const struct {
        struct fy_net_hdr h;
        uint32_t len;
    } bad[] = {
        {{.flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff}, 100},
        {{.flags = 1, .csum_start = 90, .csum_offset = 9}, 100},
        {{.gso_type = 1, .gso_size = 100}, 100},                           /* no checksum asked for */
        {{.flags = 1, .gso_type = 1}, 100},                                /* segments of nothing */
        {{.flags = 1, .gso_type = 1, .gso_size = 1, .hdr_len = 101}, 100}, /* longer than the frame */
        {{.flags = 1, .gso_type = 3, .gso_size = 100}, 100},               /* UDP */
        {{.flags = 1, .gso_type = 4, .gso_size = 100}, 100},               /* TSO6: not negotiated */
        {{.flags = 1, .gso_type = 0x81, .gso_size = 100}, 100},            /* ECN: not negotiated */
        {{.gso_type = 0x80}, 100},
        {{0}, 13},
        {{0}, 65554},
    };
    struct card c;
    uint8_t frame[2048];
    struct fy_net_hdr got, fine = {0};
    open_card(&c, 0);
    start(&c, F_MAC | F_CSUM | F_HOST_TSO4, 2);
    for (size_t i = 0; i < FY_ARRAY_LEN(bad); i++) {
        guest_send(&c, 1, bad[i].len, &bad[i].h, 1);
        assert_int_equal(status(&c).tx.dropped, i + 1);
    }
    const struct drv_seg tiny = {DRV_DATA, 5, false}, in = {DRV_DATA, 500, true};
    drv_do(&c.d, TX, &tiny, 1);
    drv_do(&c.d, TX, &in, 1);
    assert_int_equal(status(&c).tx.dropped, FY_ARRAY_LEN(bad) + 2);
    assert_true(wire_empty(&c));
    guest_send(&c, 2, 64, &fine, 1);
    assert_int_equal(wire_recv(&c, &got, frame), 64);
    assert_true(is_frame(frame, 2, 64));
    close_card(&c);
}

static void add_rx(struct card *c, unsigned slot, uint32_t len)
{
    const struct drv_seg s = {DRV_DATA + (uint64_t)slot * 4096, len, true};
    drv_add(&c->d, RX, &s, 1, false);
}

static void test_receive(void **state)
{
    (void)state;
    for (size_t k = 0; k < FY_ARRAY_LEN(formats); k++) {
        struct card c;
        open_card(&c, 0);
        start(&c, formats[k] | F_MAC, 2);
        for (unsigned n = 0; n < 200; n++) {
            uint32_t len = 14 + n * 13 % 1500, used;
            const struct drv_seg s[2] = {{DRV_DATA + 8192ull * (n % 8), 12 + n % 40, true},
                                         {DRV_DATA + 8192ull * (n % 8) + 4096, 2000, true}};
            uint16_t id = drv_add(&c.d, RX, s, 2, c.d.indirect);
            drv_kick(&c.d, RX);
            wire_send(&c, n, len, NULL);
            assert_int_equal(drv_wait(&c.d, RX, &used), id);
            assert_int_equal(used, FY_NET_HDR_BYTES + len);
            assert_int_equal(fy_get16(drv_at(&c.d, s[0].gpa) + 10), 1);
            uint8_t frame[2048];
            uint32_t head = s[0].len - 12 < len ? s[0].len - 12 : len;
            memcpy(frame, drv_at(&c.d, s[0].gpa + 12), head);
            memcpy(frame + head, drv_at(&c.d, s[1].gpa), len - head);
            assert_true(is_frame(frame, n, len));
        }
        assert_int_equal(status(&c).rx.frames, 200);
        close_card(&c);
    }
}

/* Buffers of 512 bytes: a frame is spread over several, and the header says over how many. */
static void test_receive_merged(void **state)
{
    (void)state;
    static uint8_t frame[FY_NET_FRAME_MAX];
    for (size_t k = 0; k < FY_ARRAY_LEN(formats); k++) {
        struct card c;
        open_card(&c, 0);
        start(&c, formats[k] | F_MAC | F_MRG, 2);
        for (unsigned i = 0; i < SIZE - 1; i++)
            add_rx(&c, i, 512);
        drv_kick(&c.d, RX);
        for (unsigned n = 0; n < 50; n++) {
            uint32_t len = 14 + n * 331 % 9000, at = 0, used, count = 1;
            wire_send(&c, n, len, NULL);
            for (unsigned i = 0; i < count; i++) {
                uint16_t id = drv_wait(&c.d, RX, &used);
                uint64_t gpa = fy_get64(drv_at(&c.d, c.d.q[RX].desc + 16 * (uint64_t)id));
                if (c.d.packed) /* ids of a packed ring are not places: the slot was noted by the id */
                    gpa = DRV_DATA + 4096ull * (SIZE - 1 - id);
                uint32_t skip = i ? 0 : FY_NET_HDR_BYTES;
                if (!i)
                    count = fy_get16(drv_at(&c.d, gpa) + 10);
                assert_true(count >= 1 && count <= SIZE && used <= 512);
                memcpy(frame + at, drv_at(&c.d, gpa + skip), used - skip);
                at += used - skip;
                const struct drv_seg s = {gpa, 512, true};
                assert_int_equal(drv_add(&c.d, RX, &s, 1, false), id);
            }
            drv_kick(&c.d, RX);
            assert_int_equal(count, FY_DIV_UP(FY_NET_HDR_BYTES + len, 512));
            assert_int_equal(at, len);
            assert_true(is_frame(frame, n, len));
        }
        /* More than all buffers hold: it waits for more, and with 64 of them it still does not fit. */
        wire_send(&c, 1, 60000, NULL);
        wire_send(&c, 9, 100, NULL);
        add_rx(&c, SIZE - 1, 512);
        drv_kick(&c.d, RX);
        uint32_t used;
        drv_wait(&c.d, RX, &used);
        assert_int_equal(used, FY_NET_HDR_BYTES + 100);
        assert_int_equal(status(&c).rx.dropped, 1);
        close_card(&c);
    }
}

/* Without buffers nothing is lost until the network's own queue is full; what does not fit is. */
static void test_receive_starved(void **state)
{
    (void)state;
    struct card c;
    uint32_t used;
    open_card(&c, 0);
    start(&c, F_MAC | FY_VIRTIO_F_EVENT_IDX, 2);
    for (unsigned n = 0; n < 30; n++)
        wire_send(&c, n, 100 + n, NULL);
    for (unsigned n = 0; n < 30; n++) {
        add_rx(&c, 0, 2000);
        drv_kick(&c.d, RX);
        drv_wait(&c.d, RX, &used);
        assert_int_equal(used, FY_NET_HDR_BYTES + 100 + n);
        assert_true(is_frame(drv_at(&c.d, DRV_DATA + 12), n, 100 + n));
    }
    wire_send(&c, 0, 1000, NULL);
    wire_send(&c, 1, 50, NULL);
    add_rx(&c, 0, 100);
    drv_kick(&c.d, RX);
    drv_wait(&c.d, RX, &used);
    assert_int_equal(used, FY_NET_HDR_BYTES + 50);
    assert_int_equal(status(&c).rx.dropped, 1);
    close_card(&c);
}

/* A network's headers are checked like a driver's; a checksum that the driver does not take is finished. */
static void test_receive_headers(void **state)
{
    (void)state;
    struct card c;
    uint32_t used;
    open_card(&c, 0);
    start(&c, F_MAC, 2);
    const struct fy_net_hdr bad[] = {
        {.flags = 1, .csum_start = 99, .csum_offset = 0},
        {.flags = 1, .gso_type = 1, .gso_size = 10, .csum_start = 34, .csum_offset = 16},
        {.gso_type = 7}};
    for (size_t i = 0; i < FY_ARRAY_LEN(bad); i++)
        wire_send(&c, 1, 100, &bad[i]);
    const struct fy_net_hdr sum = {.flags = 1, .csum_start = 34, .csum_offset = 16};
    wire_send(&c, 3, 101, &sum);
    add_rx(&c, 0, 2000);
    drv_kick(&c.d, RX);
    drv_wait(&c.d, RX, &used);
    assert_int_equal(used, FY_NET_HDR_BYTES + 101);
    const uint8_t *p = drv_at(&c.d, DRV_DATA);
    assert_int_equal(p[0], 0);
    /* RFC 1071 by hand, with the field as it was in place of the result: the sum of all is all ones. */
    uint32_t want = 0;
    uint8_t frame[102] = {0};
    fill(frame, 3, 101);
    for (unsigned i = 34; i < 102; i += 2)
        want += (uint32_t)frame[i] << 8 | (i + 1 < 101 ? frame[i + 1] : 0);
    while (want >> 16)
        want = (want & 0xffff) + (want >> 16);
    want = ~want & 0xffff;
    assert_int_equal((uint32_t)p[12 + 50] << 8 | p[12 + 51], want ? want : 0xffff);
    assert_int_equal(status(&c).rx.dropped, FY_ARRAY_LEN(bad));
    close_card(&c);
}

/* One command; its answer. */
static uint8_t control(struct card *c, uint8_t class, uint8_t command, const void *data, uint32_t len)
{
    uint64_t at = DRV_DATA + (4u << 20);
    uint8_t *p = drv_at(&c->d, at);
    p[0] = class;
    p[1] = command;
    if (len)
        memcpy(p + 2, data, len);
    p[0x10000] = 0x55;
    const struct drv_seg s[3] = {{at, 2, false}, {at + 2, len, false}, {at + 0x10000, 1, true}};
    if (len) {
        drv_do(&c->d, CTRL, s, 3);
    } else {
        const struct drv_seg two[2] = {s[0], s[2]};
        drv_do(&c->d, CTRL, two, 2);
    }
    return p[0x10000];
}

/* Does a frame to this address (with this tag, if any) reach the driver? One behind it always does. */
static bool reaches(struct card *c, const uint8_t to[6], int vlan)
{
    uint8_t buf[FY_NET_HDR_BYTES + 64] = {0};
    uint32_t used;
    uint64_t before = status(c).rx.frames;
    memcpy(buf + 12, to, 6);
    if (vlan >= 0) {
        buf[24] = 0x81;
        buf[26] = (uint8_t)(vlan >> 8);
        buf[27] = (uint8_t)vlan;
    }
    assert_int_equal(send(c->wire, buf, sizeof buf, 0), sizeof buf);
    memcpy(buf + 12, mac, 6);
    memset(buf + 24, 0, 4);
    assert_int_equal(send(c->wire, buf, sizeof buf - 1, 0), sizeof buf - 1);
    do {
        add_rx(c, 1, 2000);
        drv_kick(&c->d, RX);
        drv_wait(&c->d, RX, &used);
    } while (used != sizeof buf - 1);
    return status(c).rx.frames - before == 2;
}

static void test_control(void **state)
{
    (void)state;
    static const uint8_t all[6] = {255, 255, 255, 255, 255, 255}, group[6] = {1, 0, 0x5e, 0, 0, 1},
                         other[6] = {2, 9, 9, 9, 9, 9};
    const uint8_t on = 1, off = 0, two = 2;
    struct card c;
    open_card(&c, 0);
    start(&c,
          F_MAC | F_STATUS | F_CTRL | F_CTRL_RX | F_CTRL_VLAN | F_CTRL_MAC | F_GUEST_CSUM |
              F_GUEST_OFFLOADS_CTRL,
          3);
    assert_true(reaches(&c, all, -1));
    assert_false(reaches(&c, group, -1));
    assert_false(reaches(&c, other, -1));
    assert_int_equal(control(&c, 0, 0, &on, 1), 0);
    assert_true(reaches(&c, other, -1));
    assert_int_equal(control(&c, 0, 0, &off, 1), 0);
    assert_int_equal(control(&c, 0, 1, &on, 1), 0);
    assert_true(reaches(&c, group, -1));
    assert_int_equal(control(&c, 0, 1, &off, 1), 0);
    uint8_t table[4 + 6 + 4 + 6] = {1};
    memcpy(table + 4, other, 6);
    table[10] = 1;
    memcpy(table + 14, group, 6);
    assert_int_equal(control(&c, 1, 0, table, sizeof table), 0);
    assert_true(reaches(&c, other, -1));
    assert_true(reaches(&c, group, -1));
    table[0] = 2; /* more than there are: nothing changes */
    assert_int_equal(control(&c, 1, 0, table, sizeof table), 1);
    memset(table, 0xff, sizeof table);
    assert_int_equal(control(&c, 1, 0, table, sizeof table), 1);
    assert_true(reaches(&c, other, -1));
    assert_int_equal(control(&c, 1, 1, mac, 6), 0);
    assert_int_equal(control(&c, 1, 1, mac, 5), 1);
    const uint8_t vlan[2] = {0x23, 1}, much[2] = {0, 0x10};
    assert_false(reaches(&c, mac, 0x123));
    assert_int_equal(control(&c, 2, 0, vlan, 2), 0);
    assert_true(reaches(&c, mac, 0x123));
    assert_false(reaches(&c, mac, 0x124));
    assert_true(reaches(&c, mac, 0));
    assert_int_equal(control(&c, 2, 1, vlan, 2), 0);
    assert_false(reaches(&c, mac, 0x123));
    assert_int_equal(control(&c, 2, 0, much, 2), 1);
    const uint8_t offloads[8] = {2}, more[8] = {0x80};
    assert_int_equal(control(&c, 5, 0, offloads, 8), 0);
    assert_int_equal(control(&c, 5, 0, more, 8), 1);
    /* what was not negotiated, or is no command */
    assert_int_equal(control(&c, 0, 0, &two, 1), 1);
    assert_int_equal(control(&c, 0, 2, &on, 1), 1);
    assert_int_equal(control(&c, 3, 0, NULL, 0), 1);
    assert_int_equal(control(&c, 4, 0, vlan, 2), 1);
    assert_int_equal(control(&c, 77, 0, NULL, 0), 1);
    assert_int_equal(control(&c, 0, 0, NULL, 0), 1);
    close_card(&c);
}

static void test_link(void **state)
{
    (void)state;
    struct card c;
    struct fy_net_hdr h = {0}, got;
    struct fy_err e = {0};
    uint8_t frame[2048];
    int sv[2];
    uint32_t used;
    open_card(&c, 0);
    start(&c, F_MAC | F_STATUS, 2);
    assert_int_equal(fy_virtio_net_attach(&c.d.dev, c.wire, &e), -1);
    assert_int_equal(e.code, FY_ESTATE);
    close(c.wire);
    for (unsigned i = 0; i < 2000 && !__atomic_load_n(&c.lost, __ATOMIC_ACQUIRE); i++)
        usleep(10000);
    assert_int_equal(c.lost, 1);
    assert_int_equal(drv_device(&c.d, 6, 2), 0);
    guest_send(&c, 1, 100, &h, 1); /* taken back, lost */
    assert_int_equal(status(&c).tx.dropped, 1);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
    c.wire = sv[1];
    assert_int_equal(fy_virtio_net_attach(&c.d.dev, sv[0], &e), 0);
    assert_int_equal(drv_device(&c.d, 6, 2), 1);
    guest_send(&c, 2, 100, &h, 1);
    assert_int_equal(wire_recv(&c, &got, frame), 100);
    add_rx(&c, 1, 2000);
    drv_kick(&c.d, RX);
    wire_send(&c, 3, 60, NULL);
    drv_wait(&c.d, RX, &used);
    assert_int_equal(used, FY_NET_HDR_BYTES + 60);
    close_card(&c);
}

static void test_gate(void **state)
{
    (void)state;
    struct card c;
    struct fy_net_hdr h = {0}, got;
    struct fy_err e = {0};
    uint8_t frame[2048];
    open_card(&c, 0);
    start(&c, F_MAC, 2);
    c.d.dev.ops->pause(c.d.dev.dev);
    uint64_t first = fy_gate_hold(c.gate);
    c.d.dev.ops->resume(c.d.dev.dev);
    for (unsigned n = 0; n < 5; n++)
        guest_send(&c, n, 100 + n, &h, 2);
    c.d.dev.ops->pause(c.d.dev.dev);
    uint64_t second = fy_gate_hold(c.gate);
    c.d.dev.ops->resume(c.d.dev.dev);
    guest_send(&c, 5, 105, &h, 2);
    assert_true(wire_empty(&c));
    assert_int_equal(fy_gate_kept(c.gate), 6);
    assert_int_equal(fy_gate_release(c.gate, first, &e), 0);
    for (unsigned n = 0; n < 5; n++) {
        assert_int_equal(wire_recv(&c, &got, frame), 100 + n);
        assert_true(is_frame(frame, n, 100 + n));
    }
    assert_true(wire_empty(&c));
    assert_true(second > first);
    fy_gate_open(c.gate);
    assert_int_equal(wire_recv(&c, &got, frame), 105);
    guest_send(&c, 6, 106, &h, 1);
    assert_int_equal(wire_recv(&c, &got, frame), 106);
    assert_int_equal(status(&c).tx.frames, BEGUN + 7);
    close_card(&c);
}

/* A state that comes is run: the card says where it is, and has its driver do so too. */
static void test_move(void **state)
{
    (void)state;
    struct card c;
    struct fy_err e = {0};
    struct fy_net_hdr h = {0}, got;
    uint8_t frame[2048];
    uint8_t *buf = NULL;
    size_t len;
    uint64_t generation;
    open_card(&c, 0);
    start(&c, F_MAC | F_STATUS | F_CTRL | F_CTRL_MAC | F_ANNOUNCE, 3);
    const uint8_t moved[6] = {2, 7, 7, 7, 7, 7};
    assert_int_equal(control(&c, 1, 1, moved, 6), 0);
    guest_send(&c, 1, 100, &h, 1);
    wire_recv(&c, &got, frame);
    c.d.dev.ops->pause(c.d.dev.dev);
    assert_int_equal(c.d.dev.ops->save(c.d.dev.dev, &buf, &len, &e), 0);
    c.d.dev.ops->reset(c.d.dev.dev);
    if (c.d.dev.ops->load(c.d.dev.dev, buf, len, &e) < 0)
        fail_msg("%s", e.text);
    free(buf);
    generation = drv_read(&c.d, 21, 1);
    c.d.dev.ops->resume(c.d.dev.dev);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(wire_recv(&c, &got, frame), 60);
        assert_memory_equal(frame, "\xff\xff\xff\xff\xff\xff", 6);
        assert_memory_equal(frame + 6, moved, 6);
        assert_memory_equal(frame + 12, "\x80\x35\0\1\x08\0\6\4\0\3", 10);
        assert_memory_equal(frame + 22, moved, 6);
    }
    assert_int_equal(drv_device(&c.d, 6, 2), 3);
    assert_int_not_equal(drv_read(&c.d, 21, 1), generation);
    assert_int_equal(control(&c, 3, 0, NULL, 0), 0);
    assert_int_equal(drv_device(&c.d, 6, 2), 1);
    assert_int_equal(drv_device(&c.d, 5, 1), 7);
    guest_send(&c, 2, 70, &h, 1);
    assert_int_equal(wire_recv(&c, &got, frame), 70);
    /* A pause without a load is no move. */
    c.d.dev.ops->pause(c.d.dev.dev);
    c.d.dev.ops->resume(c.d.dev.dev);
    guest_send(&c, 3, 71, &h, 1);
    assert_int_equal(wire_recv(&c, &got, frame), 71);
    assert_int_equal(drv_device(&c.d, 6, 2), 1);
    close_card(&c);
}

/* Frames that come while the guest is away are taken out, whole and in order, and given to it elsewhere. */
static void test_late(void **state)
{
    (void)state;
    static uint8_t buf[8 * 2048];
    struct card c;
    struct fy_err e = {0};
    size_t used = 0, turns = 0;
    bool more = true;
    open_card(&c, 0);
    start(&c, F_MAC, 2);
    c.d.dev.ops->pause(c.d.dev.dev);
    for (unsigned n = 0; n < 8; n++)
        wire_send(&c, n, 100 + 200 * n, NULL);
    while (more) { /* room for one or two at a time */
        size_t got = fy_virtio_net_collect(&c.d.dev, 3, buf + used, 1700, &more);
        assert_true(got || !more);
        used += got;
        turns++;
    }
    assert_true(turns > 3);
    assert_int_equal(fy_virtio_net_collect(&c.d.dev, 3, buf + used, 1700, &more), 0);
    c.d.dev.ops->resume(c.d.dev.dev);
    const uint8_t *p = buf;
    for (unsigned n = 0; n < 8; n++) {
        uint32_t len = 100 + 200 * n, got;
        assert_int_equal(fy_get32(p), 3);
        assert_int_equal(fy_get32(p + 4), len);
        assert_true(is_frame(p + FY_LATE_HEAD, n, len));
        assert_int_equal(fy_virtio_net_late(&c.d.dev, p, FY_LATE_HEAD + len, &e), 0);
        add_rx(&c, n, 2048);
        drv_kick(&c.d, RX);
        drv_wait(&c.d, RX, &got);
        assert_int_equal(got, FY_NET_HDR_BYTES + len);
        assert_true(is_frame(drv_at(&c.d, DRV_DATA + n * 4096ull + FY_NET_HDR_BYTES), n, len));
        p += FY_LATE_HEAD + len;
    }
    assert_ptr_equal(p, buf + used);
    /* What is no frame is refused, and what no driver takes has an end. */
    for (size_t len = 0; len < FY_LATE_HEAD + FY_NET_FRAME_MIN; len++) {
        assert_int_equal(fy_virtio_net_late(&c.d.dev, buf, len, &e), -1);
        assert_int_equal(e.code, FY_ECORRUPT);
    }
    uint64_t dropped = status(&c).rx.dropped;
    for (unsigned i = 0; i < 3000; i++)
        assert_int_equal(fy_virtio_net_late(&c.d.dev, buf, FY_LATE_HEAD + 100, &e), 0);
    assert_in_range(status(&c).rx.dropped - dropped, 1000, 3000);
    /* A header that breaks rules comes from another host, too. */
    close_card(&c);
    open_card(&c, 0);
    start(&c, F_MAC, 2);
    memset(buf + 8, 0xff, FY_NET_HDR_BYTES);
    dropped = status(&c).rx.dropped;
    add_rx(&c, 0, 2048);
    assert_int_equal(fy_virtio_net_late(&c.d.dev, buf, FY_LATE_HEAD + 100, &e), 0);
    memset(buf + 8, 0, FY_NET_HDR_BYTES);
    assert_int_equal(fy_virtio_net_late(&c.d.dev, buf, FY_LATE_HEAD + 100, &e), 0);
    drv_kick(&c.d, RX);
    uint32_t got;
    drv_wait(&c.d, RX, &got);
    assert_int_equal(got, FY_NET_HDR_BYTES + 100);
    assert_int_equal(status(&c).rx.dropped - dropped, 1);
    close_card(&c);
}

static void test_state(void **state)
{
    (void)state;
    struct card c;
    open_card(&c, 0);
    start(&c, F_MAC | F_STATUS | F_CTRL | F_CTRL_RX | F_CTRL_VLAN | F_ANNOUNCE, 3);
    const uint8_t vlan[2] = {0x23, 1}, on = 1;
    assert_int_equal(control(&c, 2, 0, vlan, 2), 0);
    assert_int_equal(control(&c, 0, 1, &on, 1), 0);
    c.d.dev.ops->pause(c.d.dev.dev);
    c.d.f.dev = c.d.dev;
    fx_same_after_load(&c.d.f);
    fx_mutate(&c.d.f);
    c.d.f.dev.ops = NULL;
    close_card(&c);
}

static void test_limit(void **state)
{
    (void)state;
    struct card c;
    struct fy_net_hdr h = {0}, got;
    static uint8_t frame[FY_NET_FRAME_MAX];
    struct timespec a, b;
    open_card(&c, 1u << 20);
    start(&c, F_MAC, 2);
    clock_gettime(CLOCK_MONOTONIC, &a);
    /* 64 KiB pass at once, the rest at 1 MiB/s: 256 KiB take 180 ms at least. */
    for (unsigned n = 0; n < 16; n++) {
        guest_send(&c, n, 20000, &h, 1);
        assert_int_equal(wire_recv(&c, &got, frame), 20000);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    assert_true(s > (300000.0 - 65536 - 20000) / (1 << 20));
    fy_virtio_net_set_rate(&c.d.dev, 0);
    assert_int_equal(status(&c).rate, 0);
    guest_send(&c, 1, 60000, &h, 1);
    assert_int_equal(wire_recv(&c, &got, frame), 60000);
    close_card(&c);
}

static void test_tokens(void **state)
{
    (void)state;
    struct fy_tokens t;
    const uint64_t second = 1000000000;
    uint64_t now = 5 * second, passed = 0;
    fy_tokens_set(&t, 0, now);
    fy_tokens_take(&t, UINT64_MAX);
    assert_int_equal(fy_tokens_wait(&t, now), 0);
    fy_tokens_set(&t, 10000000, now);
    assert_int_equal(t.burst, 500000);
    for (uint64_t end = now + 10 * second; now < end;) {
        uint64_t ns = fy_tokens_wait(&t, now);
        if (!ns) {
            fy_tokens_take(&t, 1514);
            passed += 1514;
        }
        now += ns ? ns : 100;
    }
    /* what was asked for, the burst, and one frame's debt at most */
    assert_true(passed >= 100000000 && passed <= 100000000 + 500000 + 1514);
    now += 3600 * second; /* a rest earns no more than the burst */
    assert_int_equal(fy_tokens_wait(&t, now), 0);
    fy_tokens_take(&t, 500000);
    assert_true(fy_tokens_wait(&t, now) > 0);
    /* a small rate, asked often: nothing is lost between */
    fy_tokens_set(&t, 1024, now);
    fy_tokens_take(&t, t.burst + 1024);
    uint64_t begin = now;
    while (fy_tokens_wait(&t, now))
        now += 1000;
    assert_true(now - begin >= second && now - begin <= second + 3000000);
    /* neither time nor bytes overflow */
    fy_tokens_set(&t, UINT64_MAX, 0);
    assert_int_equal(t.rate, FY_TOKENS_RATE_MAX);
    fy_tokens_take(&t, UINT64_MAX);
    fy_tokens_take(&t, UINT64_MAX);
    assert_true(fy_tokens_wait(&t, 1) > 0);
    assert_int_equal(fy_tokens_wait(&t, UINT64_MAX), 0);
    /* a clock that stands, or goes back, gives nothing */
    fy_tokens_set(&t, 1024, 1000);
    fy_tokens_take(&t, t.burst);
    assert_true(fy_tokens_wait(&t, 1000) > 0 && fy_tokens_wait(&t, 0) > 0);
}

static void test_mac(void **state)
{
    (void)state;
    uint8_t uuid[16] = {1, 2, 3}, a[6], b[6];
    for (unsigned i = 0; i < 12; i++) {
        fy_nic_mac(uuid, i, a);
        assert_int_equal(a[0], 2);
        for (unsigned k = 0; k < i; k++) {
            fy_nic_mac(uuid, k, b);
            assert_memory_not_equal(a, b, 6);
        }
        fy_nic_mac(uuid, i, b);
        assert_memory_equal(a, b, 6);
    }
    fy_nic_mac(uuid, 0, a);
    static const uint8_t known[6] = {0x02, 0x34, 0xcc, 0x6e, 0x15, 0xb8};
    assert_memory_equal(a, known, 6); /* guests keep theirs over versions */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_send),
        cmocka_unit_test(test_send_broken),
        cmocka_unit_test(test_receive),
        cmocka_unit_test(test_receive_merged),
        cmocka_unit_test(test_receive_starved),
        cmocka_unit_test(test_receive_headers),
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_link),
        cmocka_unit_test(test_gate),
        cmocka_unit_test(test_move),
        cmocka_unit_test(test_late),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_mac),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
