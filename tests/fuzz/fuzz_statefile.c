// SPDX-License-Identifier: Apache-2.0
/* A whole state file, loaded by a machine of its revision whose engine keeps it as it comes. */
#include <string.h>

#include "hv/base/checked.h"
#include "hv/vm/internal.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/loads.h"
#include "tests/fuzz/message.h"
#include "tests/fuzz/still.h"

#define OPS 64

#define REVISIONS 2

static struct fy_machine *machines[REVISIONS];
static struct fy_machine *machine; /* of the input's revision */

static int load(const uint8_t *buf, size_t len, struct fy_err *e)
{
    char warning[FY_ERR_TEXT];
    unsigned before = still_loads();
    memset(e, 0, sizeof *e);
    int r = fy_machine_load(machine, buf, len, warning, e);
    if (r == 0)
        return 0;
    MUST((e->code == FY_ECORRUPT || e->code == FY_EUNSUPPORTED) && e->text[0]);
    /* Devices check their own messages as they are loaded; whatever else is wrong is found before. */
    if (strncmp(e->text, "loading ", 8) != 0)
        MUST(still_loads() == before);
    return r;
}

static int load_file(const Ferry__StateFile *f, struct fy_err *e)
{
    size_t len = ferry__state_file__get_packed_size(f);
    uint8_t *buf = malloc(len + 1);
    MUST(buf);
    ferry__state_file__pack(f, buf);
    int r = load(buf, len, e);
    free(buf);
    return r;
}

static bool known(const char *id)
{
    static const char *const ids[] = {"vcpu0", "vcpu1", "irqchip", "pit", "clock"};
    for (size_t i = 0; i < FY_ARRAY_LEN(ids); i++)
        if (!strcmp(id, ids[i]))
            return true;
    return fy_machine_device(machine, id) != NULL;
}

/* What was taken, with one part more: skipped only where it is unknown and may be. */
static void one_more(const Ferry__StateFile *taken)
{
    struct fy_err e;
    Ferry__StatePart part = FERRY__STATE_PART__INIT;
    Ferry__StateFile f = *taken;
    f.parts = calloc(taken->n_parts + 1, sizeof *f.parts);
    MUST(f.parts);
    if (taken->n_parts)
        memcpy(f.parts, taken->parts, taken->n_parts * sizeof *f.parts);
    f.parts[f.n_parts++] = &part;
    part.id = (char *)(uintptr_t) "later-device";
    part.version = 7;
    part.optional = true;
    MUST(load_file(&f, &e) == 0);
    part.optional = false;
    MUST(load_file(&f, &e) < 0 && e.code == FY_EUNSUPPORTED);
    for (size_t i = 0; i < taken->n_parts; i++) {
        part = *taken->parts[i];
        if (!known(part.id))
            continue;
        MUST(load_file(&f, &e) < 0 && e.code == FY_ECORRUPT);
        break;
    }
    f.n_parts--;
    f.revision++;
    MUST(load_file(&f, &e) < 0 && e.code == FY_ECORRUPT);
    free(f.parts);
}

static void taken_whole(const Ferry__StateFile *f)
{
    unsigned count = 0;
    for (size_t i = 0; i < f->n_parts; i++) {
        MUST(known(f->parts[i]->id) || f->parts[i]->optional);
        count += known(f->parts[i]->id);
    }
    MUST(count == 5 + machine->device_count);
}

/* What a vCPU may do next: accesses to the chips' ports, but for those that end the guest or reset it. */
static void operate(size_t seed)
{
    static const uint16_t ports[] = {FY_PORT_SERIAL0, FY_PORT_RTC, FY_PORT_PM1_EVENT, FY_PORT_PM_TIMER};
    uint64_t x = seed * 0x9e3779b97f4a7c15ull | 1;
    for (unsigned i = 0; i < OPS; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        uint64_t port = ports[x >> 8 & 3] + (x >> 8 & 3 ? x >> 16 & 1 : x >> 16 & 7);
        if (x >> 24 & 1)
            fy_bus_write(machine->bus, FY_SPACE_PORT, port, 1u << (x >> 28 & 1), x >> 32 & 0xff);
        else
            fy_bus_read(machine->bus, FY_SPACE_PORT, port, 1u << (x >> 28 & 1));
    }
    fuzz_operations(OPS);
}

const struct fuzz_loads fuzz_loads = {.kinds = 1,
                                      .kind = {{"statefile", &ferry__state_file__descriptor, NULL}}};

static void one(const uint8_t *data, size_t size)
{
    struct fy_err e;
    Ferry__StateFile *f = ferry__state_file__unpack(NULL, size, data);
    machine = machines[f && f->revision == 1 ? 0 : REVISIONS - 1];
    int r = load(data, size, &e);
    fuzz_load_tried(0, data, size, r == 0);
    if (r == 0) {
        uint8_t *once, *twice;
        size_t len, len2;
        MUST(f);
        operate(size ^ data[size / 2]);
        fuzz_forget_unknown(&f->base);
        taken_whole(f);
        MUST(fy_machine_save(machine, &once, &len, &e) == 0);
        MUST(load(once, len, &e) == 0);
        MUST(fy_machine_save(machine, &twice, &len2, &e) == 0);
        MUST(len == len2 && !memcmp(once, twice, len));
        fuzz_load_offer(0, once, len);
        one_more(f);
        free(once);
        free(twice);
    }
    if (f)
        ferry__state_file__free_unpacked(f, NULL);
}

/* A machine of each revision; what it saves at first is taken, whatever devices there are by now. */
static void make(void)
{
    struct fy_err e;
    setenv("FERRY_LOG", "error", 1);
    for (unsigned i = 0; i < REVISIONS; i++) {
        uint8_t *fresh;
        size_t len;
        struct fy_loop *loop = fy_loop_new(NULL);
        MUST(loop);
        machines[i] = still_machine_of(loop, i + 1, -1, NULL, NULL);
        MUST(fy_machine_save(machines[i], &fresh, &len, &e) == 0);
        one(fresh, len);
        MUST(machine == machines[i] && load(fresh, len, &e) == 0);
        free(fresh);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!machine)
        make();
    one(data, size);
    return 0;
}
