// SPDX-License-Identifier: Apache-2.0
/* A guest that means harm: it writes at random to configuration space, registers, rings and descriptors of
 * every virtio device it finds, now and then along the protocol so that devices really start, then off it. It
 * prints "hostile N" every 2048 steps. Options of the command line: seed=N. */
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define ECAM 0xfd000000ull
#define ARENA 0x1000000ull /* 16 MiB: rings, tables, buffers */
#define ARENA_BYTES 0x1000000ull
#define NO_PAGE                                                                                              \
    0x40000u /* numbers of pages from here on are of none that this guest uses, but for its image's */
/* The balloon's buffers: nobody else writes there, so that what it takes for numbers of pages and for ranges
 * is what this guest has put there, which is not where its image is. */
#define BALLOON 0x4000000ull
#define BALLOON_BYTES 0x10000ull
#define BALLOON_ID 0x1045u
#define IMAGE_PAGE 0x115a00u /* boot.S */
#define IMAGE_PAGES 16u
#define DEVICES_MAX 32
#define QUEUES_MAX 8
#define AREA 0x2800ull
#define RING_BYTES 0x8000ull /* each queue's areas, AREA bytes: descriptors, driver, device */

static struct device {
    u32 function; /* slot << 3 */
    u64 bar[2];
    u32 queues, features_low, features_high;
    u32 packed, is_balloon;
    u16 size[QUEUES_MAX];
    u16 next[QUEUES_MAX];
} devices[DEVICES_MAX];
static u32 device_count;
static u64 seed = 0x9e3779b97f4a7c15ull;

static u64 rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static u64 below(u64 n)
{
    return (rnd() >> 11) % n;
}

static void outb(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static void outl(u16 port, u32 v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static void say(const char *s)
{
    for (; *s; s++)
        outb(0x3f8, (u8)*s);
}

static void say_number(u64 n)
{
    char text[24], *p = text + sizeof text - 1;
    *p = 0;
    do
        *--p = (char)('0' + n % 10);
    while (n /= 10);
    say(p);
}

static void put(u64 at, unsigned size, u64 v)
{
    switch (size) {
    case 1:
        *(volatile u8 *)at = (u8)v;
        break;
    case 2:
        *(volatile u16 *)at = (u16)v;
        break;
    case 4:
        *(volatile u32 *)at = (u32)v;
        break;
    default:
        *(volatile u64 *)at = v;
    }
}

static u64 get(u64 at, unsigned size)
{
    return size == 1   ? *(volatile u8 *)at
           : size == 2 ? *(volatile u16 *)at
           : size == 4 ? *(volatile u32 *)at
                       : *(volatile u64 *)at;
}

static u64 config(const struct device *d, unsigned offset)
{
    return ECAM + ((u64)d->function << 12) + offset;
}

/* BARs where they were at first, memory decoding and bus mastering on. */
static void restore(const struct device *d)
{
    put(config(d, 0x10), 4, d->bar[0]);
    put(config(d, 0x14), 4, d->bar[1]);
    put(config(d, 4), 2, 6);
}

static void find_devices(void)
{
    for (u32 slot = 0; slot < 32 && device_count < DEVICES_MAX; slot++) {
        struct device *d = &devices[device_count];
        d->function = slot << 3;
        if (get(config(d, 0), 2) != 0x1af4)
            continue;
        d->bar[0] = get(config(d, 0x10), 4) & ~15ull;
        d->bar[1] = get(config(d, 0x14), 4) & ~15ull;
        restore(d);
        d->queues = (u32)get(d->bar[0] + 18, 2);
        d->is_balloon = get(config(d, 2), 2) == BALLOON_ID;
        device_count++;
    }
}

static u64 ring(const struct device *d, u32 q)
{
    if (d->is_balloon)
        return BALLOON + BALLOON_BYTES + q * RING_BYTES;
    return ARENA + ((u64)(d - devices) * QUEUES_MAX + q) * RING_BYTES;
}

/* An address that may be anything: RAM mostly, rings, registers, holes, the end of everything. */
static u64 any_address(void)
{
    switch (below(12)) {
    case 0:
        return rnd();
    case 1:
        return devices[below(device_count)].bar[0] + below(0x4000);
    case 2:
        return 0xfee00000ull + below(0x1000);
    case 3:
        return 0xc0000000ull - below(64);
    case 4:
        return ~0ull - below(4096);
    case 5: {
        const struct device *d = &devices[below(device_count)];
        return (d->is_balloon ? ARENA : ring(d, (u32)below(QUEUES_MAX))) + below(RING_BYTES);
    }
    default:
        return ARENA + below(ARENA_BYTES);
    }
}

static u32 any_length(void)
{
    switch (below(6)) {
    case 0:
        return (u32)rnd() | 0xc0000000u; /* more than there is */
    case 1:
        return 0;
    case 2:
        return (u32)(NO_PAGE + below(1 << 20));
    default:
        return (u32)below(4096);
    }
}

/* Along the protocol, mostly. */
static void start(struct device *d)
{
    u64 c = d->bar[0];
    restore(d);
    put(c + 20, 1, 0);
    put(c + 20, 1, 1);
    put(c + 20, 1, 3);
    put(c + 0, 4, 0);
    d->features_low = (u32)get(c + 4, 4);
    put(c + 0, 4, 1);
    d->features_high = (u32)get(c + 4, 4);
    u32 high = d->features_high & ((u32)rnd() | (below(16) ? 1 : 0));
    put(c + 8, 4, 0);
    put(c + 12, 4, below(16) ? d->features_low & (u32)rnd() : (u32)rnd());
    put(c + 8, 4, 1);
    put(c + 12, 4, high);
    d->packed = high >> 2 & 1;
    put(c + 20, 1, 11);
    for (u32 q = 0; q < d->queues && q < QUEUES_MAX; q++) {
        put(c + 22, 2, q);
        u16 most = (u16)get(c + 24, 2);
        u16 size = (u16)(1u << below(8));
        if (size > most)
            size = most;
        if (!below(24))
            size = (u16)rnd();
        put(c + 24, 2, size);
        d->size[q] = size ? size : 1;
        d->next[q] = 0;
        for (u64 i = 0; i < RING_BYTES; i += 8)
            put(ring(d, q) + i, 8, 0);
        put(c + 26, 2, below(4) ? q : rnd());
        for (unsigned a = 0; a < 3; a++)
            put(c + 32 + 8 * a, 8, below(40) || d->is_balloon ? ring(d, q) + a * AREA : any_address());
        if (below(16))
            put(c + 28, 2, 1);
    }
    put(c + 20, 1, 15);
}

/* Something to take or to give back: any page but this image's. */
static u32 some_page(void)
{
    u32 page;
    do
        page = (u32)(below(3) ? below(0x180000) : rnd());
    while (page - IMAGE_PAGE < IMAGE_PAGES);
    return page;
}

static u64 balloon_buffer(u32 *length)
{
    u64 at = BALLOON + (below(BALLOON_BYTES) & ~3ull);
    for (unsigned i = 0; i < 32; i++)
        put(at + 4 * i, 4, some_page());
    *length = below(16) ? (u32)below(1024) * 4 : (u32)rnd() | 0xc0000000u;
    return at;
}

/* A chain of a few descriptors, right or wrong, made available. */
static void offer(struct device *d, u32 q)
{
    u64 table = ring(d, q), size = d->size[q];
    u64 avail = table + AREA;
    u32 n = 1 + (u32)below(4), writes = (u32)below(n + 1);
    u64 head = below(size);
    for (u32 i = 0; i < n; i++) {
        u64 at = table + 16 * ((d->packed ? d->next[q] + i : head + i) % size);
        u16 flags = (u16)((i + 1 < n ? 1 : 0) | (i >= writes ? 2 : 0));
        if (!below(12))
            flags = (u16)rnd();
        if (!below(10))
            flags |= 4;
        if (d->is_balloon)
            flags &= ~4u; /* a table in a buffer would be numbers of pages taken for addresses */
        u32 length = any_length();
        u64 buffer = d->is_balloon && !(flags & 2) ? balloon_buffer(&length) : any_address();
        put(at, 8, buffer);
        put(at + 8, 4, length);
        if (d->packed) {
            put(at + 12, 2, rnd());
            put(at + 14, 2, (flags & 7) | (below(8) ? 0x80 : rnd()));
        } else {
            put(at + 12, 2, flags);
            put(at + 14, 2, below(12) ? (head + i + 1) % size : rnd());
        }
    }
    if (!d->packed) {
        put(avail + 4 + 2 * (d->next[q] % size), 2, below(20) ? head : rnd());
        put(avail + 2, 2, below(60) ? ++d->next[q] : rnd());
    } else {
        d->next[q] = (u16)((d->next[q] + n) % size);
    }
    put(d->bar[0] + 0x3000 + 4 * q, 2, q);
}

/* Requests that begin as disks, networks and sockets expect them, so that more than the first check is
 * reached. */
static void seed_buffers(void)
{
    u64 at = ARENA + below(ARENA_BYTES - 64);
    put(at, 4, below(16));
    put(at + 4, 4, below(4));
    put(at + 8, 8, below(4) ? NO_PAGE + below(1 << 20) : rnd());
    for (unsigned i = 16; i < 64; i += 8)
        put(at + i, 8, below(2) ? below(256) : rnd());
}

static void random_config(const struct device *d)
{
    static const u8 sizes[] = {1, 2, 4};
    unsigned size = sizes[below(3)];
    unsigned offset = (unsigned)below(below(8) ? 256 : 4096) & ~(size - 1);
    if (below(2)) {
        put(config(d, offset), size, rnd());
    } else {
        outl(0xcf8, 0x80000000u | d->function << 8 | (offset & 0xfc));
        outl(0xcfc, (u32)rnd());
    }
    if (below(3))
        restore(d);
}

static void random_register(const struct device *d)
{
    unsigned size = 1u << below(4);
    u64 offset = below(3) ? below(64) : below(0x4000);
    u64 at = (d->bar[0] + offset) & ~(u64)(size - 1);
    if (d->is_balloon && offset < 64 && offset >= 32)
        return; /* its rings stay where they are */
    if (below(4) == 0)
        get(at, size);
    else
        put(at, size, below(2) ? rnd() : below(300));
}

/* Fixed delivery only: other kinds would end this guest, which is not what is tried here. */
static void random_vector(const struct device *d)
{
    u64 at = d->bar[1] + 16 * below(d->queues + 4);
    put(at, 4, below(4) ? 0xfee00000u | (u32)below(1 << 20) : (u32)rnd());
    put(at + 4, 4, below(8) ? 0 : rnd());
    put(at + 8, 4, 0x20 + below(0xd0));
    put(at + 12, 4, below(2));
    put(config(d, 0x40) + below(4) * 4, 4, rnd());
}

static void step(void)
{
    struct device *d = &devices[below(device_count)];
    u32 q = (u32)below(d->queues < QUEUES_MAX ? d->queues : QUEUES_MAX);
    switch (below(64)) {
    case 0:
        start(d);
        break;
    case 1:
        random_config(d);
        break;
    case 2:
    case 3:
        random_register(d);
        break;
    case 4:
        random_vector(d);
        break;
    case 5:
        put(ARENA + (any_address() & (ARENA_BYTES - 8)), 8, rnd() & (below(2) ? ~0ull : 0xff));
        break;
    default:
        if (below(4))
            offer(d, q);
        else
            seed_buffers();
    }
}

static u64 number_after(const char *s, const char *key, u64 otherwise)
{
    for (; *s; s++) {
        unsigned i = 0;
        while (key[i] && s[i] == key[i])
            i++;
        if (key[i])
            continue;
        u64 n = 0;
        for (s += i; *s >= '0' && *s <= '9'; s++)
            n = n * 10 + (u64)(*s - '0');
        return n;
    }
    return otherwise;
}

void main(u64 start_info);
void main(u64 start_info)
{
    const char *cmdline = (const char *)get(start_info + 24, 8);
    seed ^= number_after(cmdline ? cmdline : "", "seed=", 1) * 0xbf58476d1ce4e5b9ull;
    find_devices();
    say("devices ");
    say_number(device_count);
    say("\n");
    if (!device_count)
        return;
    for (u32 i = 0; i < device_count; i++)
        start(&devices[i]);
    for (u64 n = 1;; n++) {
        step();
        if (n % 2048 == 0) {
            say("hostile ");
            say_number(n);
            say("\n");
        }
    }
}
