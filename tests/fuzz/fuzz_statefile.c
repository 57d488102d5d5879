// SPDX-License-Identifier: Apache-2.0
/* A whole state file, loaded by a machine whose engine keeps it as it comes. */
#include <string.h>

#include "hv/vm/machine.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/message.h"
#include "tests/fuzz/still.h"

static struct fy_machine *machine;

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
    static const char *const ids[] = {"vcpu0",   "vcpu1", "irqchip", "pit",        "clock",
                                      "console", "rtc",   "pm",      "debug-exit", "serial0"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (!strcmp(id, ids[i]))
            return true;
    return false;
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
    MUST(count == 10);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fy_err e;
    if (!machine) {
        setenv("FERRY_LOG", "error", 1);
        struct fy_loop *loop = fy_loop_new(NULL);
        MUST(loop);
        machine = still_machine(loop, -1, NULL, NULL);
    }
    if (load(data, size, &e) < 0)
        return 0;
    Ferry__StateFile *f = ferry__state_file__unpack(NULL, size, data);
    MUST(f);
    fuzz_forget_unknown(&f->base);
    taken_whole(f);
    uint8_t *once;
    uint8_t *twice;
    size_t len;
    size_t len2;
    MUST(fy_machine_save(machine, &once, &len, &e) == 0);
    MUST(load(once, len, &e) == 0);
    MUST(fy_machine_save(machine, &twice, &len2, &e) == 0);
    MUST(len == len2 && !memcmp(once, twice, len));
    one_more(f);
    ferry__state_file__free_unpacked(f, NULL);
    free(once);
    free(twice);
    return 0;
}
