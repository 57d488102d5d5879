// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/loads.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "hv/base/log.h"
#include "proto/state.pb-c.h"
#include "tests/fuzz/fuzz.h"

#define KNOWN 128
#define ROOM 65536u
#define ENOUGH 10000 /* states of which not one was taken: the target does not do what it is for */

static struct {
    uint64_t tried, taken, operations;
    uint8_t *known; /* KNOWN times ROOM */
    size_t len[KNOWN];
    unsigned count, next;
} kinds[FUZZ_KINDS];

static unsigned last_kind;
static bool last_taken, at_exit;

static void report(void)
{
    bool none = false;
    for (unsigned k = 0; k < fuzz_loads.kinds; k++) {
        fprintf(stderr, "loads: %s: %" PRIu64 " tried, %" PRIu64 " taken, %" PRIu64 " operations on those\n",
                fuzz_loads.kind[k].name, kinds[k].tried, kinds[k].taken, kinds[k].operations);
        none |= kinds[k].tried > ENOUGH && !kinds[k].taken;
    }
    MUST(!none);
}

void fuzz_load_offer(unsigned kind, const uint8_t *state, size_t len)
{
    MUST(kind < fuzz_loads.kinds);
    if (!len || len > ROOM)
        return;
    /* Not from the heap: the fuzzer counts what an input leaves there. */
    if (!kinds[kind].known)
        kinds[kind].known = mmap(NULL, (size_t)KNOWN * ROOM, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(kinds[kind].known != MAP_FAILED);
    unsigned i = kinds[kind].next++ % KNOWN;
    if (kinds[kind].count < KNOWN)
        kinds[kind].count++;
    memcpy(kinds[kind].known + (size_t)i * ROOM, state, len);
    kinds[kind].len[i] = len;
}

unsigned fuzz_kind(uint8_t first)
{
    static int chosen = -1;
    const char *text = getenv("FERRY_FUZZ_KIND");
    if (chosen < 0)
        chosen = text ? (int)(strtoul(text, NULL, 10) % fuzz_loads.kinds) : FUZZ_KINDS;
    return chosen < FUZZ_KINDS ? (unsigned)chosen : first % fuzz_loads.kinds;
}

void fuzz_load_tried(unsigned kind, const uint8_t *state, size_t len, bool taken)
{
    MUST(kind < fuzz_loads.kinds);
    if (!at_exit) {
        MUST(atexit(report) == 0);
        fy_log_init("fuzz", FY_LOG_ERROR); /* a driver that breaks the rules is what is tried */
    }
    at_exit = true;
    kinds[kind].tried++;
    kinds[kind].taken += taken;
    last_kind = kind;
    last_taken = taken;
    if (taken)
        fuzz_load_offer(kind, state, len);
}

unsigned fuzz_operations_wanted(void)
{
    static unsigned wanted;
    const char *text = getenv("FERRY_FUZZ_OPERATIONS");
    if (!wanted)
        wanted = text ? (unsigned)strtoul(text, NULL, 10) : FUZZ_OPERATIONS;
    return wanted;
}

void fuzz_operations(unsigned count)
{
    if (last_taken)
        kinds[last_kind].operations += count;
    last_taken = false;
}

const uint8_t *fuzz_load_known(unsigned kind, uint32_t random, size_t *len)
{
    MUST(kind < fuzz_loads.kinds);
    if (!kinds[kind].count)
        return NULL;
    unsigned i = random % kinds[kind].count;
    *len = kinds[kind].len[i];
    return kinds[kind].known + (size_t)i * ROOM;
}

static const ProtobufCMessageDescriptor *part(const char *id)
{
    static const struct {
        const char *id;
        const ProtobufCMessageDescriptor *type;
    } types[] = {{"irqchip", &ferry__irq_chips__descriptor},
                 {"pit", &ferry__pit__descriptor},
                 {"clock", &ferry__clock__descriptor},
                 {"console", &ferry__console__descriptor},
                 {"rtc", &ferry__rtc__descriptor},
                 {"pm", &ferry__power_management__descriptor},
                 {"serial0", &ferry__serial16550__descriptor}};
    if (!strncmp(id, "vcpu", 4))
        return &ferry__vcpu__descriptor;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(id, types[i].id))
            return types[i].type;
    return NULL;
}

const ProtobufCMessageDescriptor *fuzz_load_inside(const ProtobufCMessage *m,
                                                   const ProtobufCFieldDescriptor *f, unsigned kind)
{
    if (m->descriptor == &ferry__state_part__descriptor && !strcmp(f->name, "body"))
        return part(((const Ferry__StatePart *)m)->id);
    if (m->descriptor == &ferry__virtio_device__descriptor && !strcmp(f->name, "device"))
        return fuzz_loads.kind[kind].device;
    return NULL;
}
