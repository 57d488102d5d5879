// SPDX-License-Identifier: Apache-2.0
/* differ [--insns N] [--seed S] [--only NAME] [--class int|simd|x87|all] [--stream I] [--strict-flags]
 *        [--x87-pointers] [--keep-going N] [--per-stream N] [--mode 32|64] [--quiet] [--cover]
 * --cover: fail when a row is not reached for no stated reason. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/soft/diff.h"

struct run {
    uint64_t insns, seed, stream_only;
    bool one;
    unsigned keep_going, failures, per_stream;
    uint64_t done, streams, faults, endless, again;
    struct diff_native native;
    struct diff_engine *engine;
    struct diff_stream *batch;
};

static uint8_t engine_mem[DIFF_DATA_BYTES];

/* Flags not to look at when instruction k faults. */
static unsigned undefined_in(const struct diff_stream *s, unsigned k)
{
    unsigned row = s->insn[k].row;
    if (row != UINT16_MAX && soft_rows[row].flags & SOFT_R_REP && soft_rows[row].writes)
        return SOFT_ARITH;
    return s->insn[k].undefined;
}

/* Faults where processors may leave more behind. */
static void forgive(unsigned row, const struct diff_state *want, struct diff_state *got)
{
    if (row == UINT16_MAX)
        return;
    if (!strcmp(soft_rows[row].name, "cmps"))
        got->cr2 = want->cr2;
    if (soft_rows[row].flags & SOFT_R_X87 && (want->cr2 ^ got->cr2) < 4096)
        got->cr2 = want->cr2;
    if (!strcmp(soft_rows[row].name, "popa"))
        memcpy(got->gpr, want->gpr, sizeof got->gpr);
}

/* LDMXCSR of a value with bit 17: AMD's misaligned mode, which no model of Ferry's has. */
static bool misaligned_mode(const struct diff_stream *s, unsigned n, const struct diff_state *got)
{
    for (unsigned k = 0; k < n && got->vector == 13; k++)
        if (s->start[k] == got->rip && s->insn[k].row != UINT16_MAX)
            return strstr(soft_rows[s->insn[k].row].name, "ldmxcsr");
    return false;
}

static bool agree(struct run *r, unsigned i, struct diff_stream *s, unsigned n, char *text, size_t bytes)
{
    struct diff_slot *slot = &r->native.slots[i];
    struct diff_state got;
    unsigned undefined = n < s->n ? s->insn[n].undefined : s->undefined;
    diff_engine_run(r->engine, slot, &got, engine_mem);
    r->done += got.insns;
    if (slot->out.vector == DIFF_ENDLESS && got.vector == DIFF_ENDLESS) {
        r->endless++;
        return true;
    }
    if (slot->out.rip != got.rip && misaligned_mode(s, n, &got))
        return true;
    if (slot->out.vector != DIFF_NO_VECTOR) {
        r->faults++;
        undefined = SOFT_ARITH; /* it ended elsewhere than in the stream */
        for (unsigned k = 0; k < n; k++)
            if (s->start[k] == slot->out.rip) {
                undefined = undefined_in(s, k);
                forgive(s->insn[k].row, &slot->out, &got);
            }
    }
    return diff_compare(&slot->out, slot->mem_out, &got, engine_mem, undefined, text, bytes);
}

/* Run the first n instructions of s alone, from slot 0's state. false: they differ. */
static bool try(struct run *r, struct diff_stream *s, unsigned n, char *text, size_t bytes)
{
    unsigned size = diff_layout(s, n, DIFF_CODE, r->native.code);
    r->native.slots[0].in.rip = DIFF_CODE;
    r->native.slots[0].end = s->start[n];
    diff_engine_code(r->engine, r->native.code, size);
    if (!diff_native_run(&r->native, 1)) {
        snprintf(text, bytes, "  the native child died or hangs\n");
        return false;
    }
    return agree(r, 0, s, n, text, bytes);
}

static void print_insn(const struct diff_stream *s, unsigned i, const uint8_t *code)
{
    const struct diff_insn *in = &s->insn[i];
    printf("  %3u ", i);
    for (unsigned k = 0; k < in->len; k++)
        printf(" %02x", code[s->start[i] - s->start[0] + k]);
    if (in->row != UINT16_MAX)
        printf("    %s %s", soft_rows[in->row].name, soft_rows[in->row].operands);
    printf("\n");
}

/* Find the first instruction after which the states differ; then see whether it differs alone. */
static void shrink(struct run *r, struct diff_stream *s, uint64_t number, const struct diff_slot *from)
{
    static char text[16384];
    static struct diff_slot before;
    struct diff_slot *slot = &r->native.slots[0];
    unsigned n = 1;
    for (; n <= s->n; n++) {
        *slot = *from;
        if (!try(r, s, n, text, sizeof text))
            break;
        before = *slot;
    }
    printf("DIFFERENCE in stream %llu of seed %llu\n", (unsigned long long)number,
           (unsigned long long)r->seed);
    if (n > s->n) {
        printf("  only when the streams of a batch run one after the other\n");
        return;
    }
    for (unsigned i = n > 6 ? n - 6 : 0; i < n; i++)
        print_insn(s, i, r->native.code);
    printf("%s", text);
    if (n > 1 && before.out.vector == DIFF_NO_VECTOR) {
        static struct diff_stream one;
        one.n = 1;
        one.insn[0] = s->insn[n - 1];
        one.undefined = n < s->n ? s->insn[n].undefined : s->undefined;
        slot->in = before.out;
        slot->in.rflags |= 0x202;
        memset(slot->in.xsave + 512, 0, 64);
        slot->in.xsave[512] = 7;
        memcpy(slot->mem_in, before.mem_out, DIFF_DATA_BYTES);
        if (try(r, &one, 1, text, sizeof text))
            printf("alone, from the same state, it is right (fused, or flags left lazily?)\n");
        else
            printf("alone:\n%s", text);
        print_insn(&one, 0, r->native.code);
    }
    diff_print_state("state before:", &slot->in);
    diff_print_state("host:", &slot->out);
}

static void mark(const struct diff_stream *s, const struct diff_state *out)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (s->insn[i].row != UINT16_MAX)
            diff_rows[s->insn[i].row].reached++;
        if (s->insn[i].branch || s->start[i] == out->rip)
            return; /* what follows may be skipped */
    }
}

/* The streams of the batch that differ. The host's kernel keeps no x87 segment selectors when it switches,
 * which can befall any stream: what differs is looked at a second time. */
static unsigned differing(struct run *r, unsigned count, unsigned bad[DIFF_SLOTS])
{
    static char text[16384];
    unsigned bads = 0;
    bool before[DIFF_SLOTS] = {false};
    for (unsigned attempt = 0; attempt < 2; attempt++) {
        unsigned was = bads;
        bads = 0;
        for (unsigned i = 0; i < count; i++) {
            bool same = agree(r, i, &r->batch[i], r->batch[i].n, text, sizeof text);
            if (!attempt)
                mark(&r->batch[i], &r->native.slots[i].out);
            if (!same && (!attempt || before[i]))
                bad[bads++] = i;
            before[i] = !same;
        }
        if (attempt)
            r->again += was - bads;
        if (!bads || (!attempt && !diff_native_run(&r->native, count)))
            break;
    }
    return bads;
}

static bool batch(struct run *r, uint64_t first, unsigned count)
{
    unsigned bytes = 0, bad[DIFF_SLOTS], bads;
    for (unsigned i = 0; i < count; i++) {
        struct diff_rng rng = {r->seed * 0x9e3779b97f4a7c15u + (first + i) * 0xd1342543de82ef95u};
        struct diff_slot *slot = &r->native.slots[i];
        diff_generate(&rng, r->per_stream, &r->batch[i], slot);
        slot->in.rip = DIFF_CODE + bytes;
        bytes += diff_layout(&r->batch[i], r->batch[i].n, slot->in.rip, r->native.code + bytes);
        slot->end = r->batch[i].start[r->batch[i].n];
    }
    diff_engine_code(r->engine, r->native.code, bytes);
    if (!diff_native_run(&r->native, count)) {
        printf("the native child died or hangs in streams %llu..%llu\n", (unsigned long long)first,
               (unsigned long long)(first + count - 1));
        return false;
    }
    bads = differing(r, count, bad);
    r->streams += count;
    if (!bads)
        return true;
    struct diff_slot *saved = malloc(sizeof *saved * bads);
    for (unsigned k = 0; saved && k < bads; k++)
        saved[k] = r->native.slots[bad[k]];
    for (unsigned k = 0; saved && k < bads && r->failures <= r->keep_going; k++) {
        shrink(r, &r->batch[bad[k]], first + bad[k], &saved[k]);
        r->failures++;
    }
    free(saved);
    return r->failures <= r->keep_going;
}

/* false: a row that was to be reached was not. */
static bool coverage(bool all)
{
    unsigned reached = 0, eligible = 0, skipped = 0;
    for (unsigned i = 0; i < soft_row_count; i++) {
        reached += diff_rows[i].reached != 0;
        eligible += !diff_rows[i].skip;
        skipped += diff_rows[i].skip != NULL;
    }
    for (unsigned i = 0; i < soft_row_count; i++) {
        const struct diff_row *d = &diff_rows[i];
        if (d->reached || (d->skip && (!all || !strcmp(d->skip, "not asked for"))))
            continue;
        printf("  not reached: %s %s (map %u, opcode %02x): %s\n", soft_rows[i].name, soft_rows[i].operands,
               soft_rows[i].map, soft_rows[i].opcode, d->skip ? d->skip : "no encoding came to run");
    }
    printf("rows reached: %u of %u to reach; %u in the table, %u not generated\n", reached, eligible,
           soft_row_count, skipped);
    return reached == eligible;
}

static unsigned class_of(const char *name)
{
    return !strcmp(name, "int")    ? DIFF_INT
           : !strcmp(name, "simd") ? DIFF_SIMD
           : !strcmp(name, "x87")  ? DIFF_X87
                                   : DIFF_INT | DIFF_SIMD | DIFF_X87;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"insns", 1, NULL, 'n'},
                                            {"seed", 1, NULL, 's'},
                                            {"only", 1, NULL, 'o'},
                                            {"class", 1, NULL, 'c'},
                                            {"stream", 1, NULL, 'i'},
                                            {"strict-flags", 0, NULL, 'f'},
                                            {"x87-pointers", 0, NULL, 'p'},
                                            {"keep-going", 1, NULL, 'k'},
                                            {"per-stream", 1, NULL, 'l'},
                                            {"quiet", 0, NULL, 'q'},
                                            {"mode", 1, NULL, 'm'},
                                            {"cover", 0, NULL, 'r'},
                                            {NULL, 0, NULL, 0}};
    struct run r = {.insns = 200000, .seed = 1, .per_stream = 12};
    unsigned classes = DIFF_INT | DIFF_SIMD | DIFF_X87, rows;
    const char *only = NULL;
    bool quiet = false, cover = false, ok = true;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'n':
            r.insns = strtoull(optarg, NULL, 0);
            break;
        case 's':
            r.seed = strtoull(optarg, NULL, 0);
            break;
        case 'o':
            only = optarg;
            break;
        case 'c':
            classes = class_of(optarg);
            break;
        case 'i':
            r.stream_only = strtoull(optarg, NULL, 0);
            r.one = true;
            break;
        case 'f':
            diff_options.strict_flags = true;
            break;
        case 'p':
            diff_options.x87_pointers = true;
            break;
        case 'k':
            r.keep_going = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'l':
            r.per_stream = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'm':
            diff_32 = atoi(optarg) == 32;
            break;
        case 'r':
            cover = true;
            break;
        case 'q':
            quiet = true;
            break;
        default:
            return 2;
        }
    }
    rows = diff_rows_init(classes, only);
    if (!rows) {
        printf("no row to test\n");
        return 77;
    }
    r.batch = calloc(DIFF_SLOTS, sizeof *r.batch);
    r.engine = diff_engine_new();
    if (!r.batch || !r.engine || !diff_native_start(&r.native)) {
        printf("cannot start\n");
        return 1;
    }
    if (r.one)
        ok = batch(&r, r.stream_only, 1);
    for (uint64_t i = 0; !r.one && ok && r.done < r.insns; i += DIFF_SLOTS)
        ok = batch(&r, i, DIFF_SLOTS);
    printf("%llu instructions in %llu streams, %llu of them ended by a fault, %llu endless; seed %llu; %.1f "
           "s of CPU here\n%llu streams agreed only at a second run\n",
           (unsigned long long)r.done, (unsigned long long)r.streams, (unsigned long long)r.faults,
           (unsigned long long)r.endless, (unsigned long long)r.seed, (double)clock() / CLOCKS_PER_SEC,
           (unsigned long long)r.again);
    diff_print_tolerances();
    if (!coverage(!quiet) && cover) {
        printf("rows are left out that nothing explains\n");
        ok = false;
    }
    diff_native_stop(&r.native);
    diff_engine_free(r.engine);
    free(r.batch);
    printf(r.failures || !ok ? "FAILED: %u differences\n" : "ok\n", r.failures);
    return r.failures || !ok;
}
