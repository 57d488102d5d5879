// SPDX-License-Identifier: Apache-2.0
/* What every vCPU does: fill its pages, then rewrite them pass after pass, each compared before its store
 * with what the registers say it must hold. */
#include "guest.h"

#define REPORTS 16      /* bad pages named before the guest falls silent about them */
#define DEBT_MS 20      /* work that a pause left undone and that is made up for */
#define IDLE_TICK_MS 10 /* of vCPUs that only wait for a verdict */

uint64_t sc_phrases[SC_PHRASES][SC_SLOT_WORDS];
volatile unsigned verdict_wanted;
volatile unsigned verdict_done[SC_CPUS];
volatile unsigned cpus_filled;
static volatile unsigned announced_fill, announced_verdict, corrupt_said;
static uint64_t reports;

static void verdict(void)
{
    uint64_t passes = UINT64_MAX;
    uint64_t written = 0;
    uint64_t bad = 0;
    for (unsigned i = 0; i < STATUS->cpus; i++) {
        uint64_t pass = STATUS->cpu[i].position >> 32;
        passes = pass < passes ? pass : passes;
        written += STATUS->cpu[i].written;
        bad += STATUS->cpu[i].bad;
    }
    put_line("!verdict %s passes=%u pages=%u bad=%u", bad ? "corrupt" : "intact", passes, written, bad);
}

/* vCPU 0 speaks for all. */
static void announce(void)
{
    unsigned cpus = STATUS->cpus;
    if (!announced_fill && cpus_filled == cpus) {
        announced_fill = 1;
        put_line("!filled %u pages", STATUS->pages);
    }
    unsigned wanted = verdict_wanted;
    if (wanted == announced_verdict)
        return;
    for (unsigned i = 0; i < cpus; i++)
        if (verdict_done[i] != wanted)
            return;
    announced_verdict = wanted;
    verdict();
}

void tick(struct cpu *me, uint64_t now)
{
    me->ticks++;
    clock_check(me, now);
    if (!me->id) {
        heartbeat(me, now);
        console_poll(me);
        announce();
    }
    if (!me->checking && me->seen != verdict_wanted) {
        me->seen = verdict_wanted;
        me->left = opt.rate ? me->pub->dirty : 0;
        me->checking = 1;
    }
    uint64_t step = tsc_khz;
    if (me->id && !opt.rate)
        step *= IDLE_TICK_MS;
    me->next_tick += step;
    if (me->next_tick <= now)
        me->next_tick = now + step;
}

static inline void maybe_tick(struct cpu *me)
{
    uint64_t now = rdtsc();
    if (now >= me->next_tick)
        tick(me, now);
}

static __attribute__((noinline)) void report(struct cpu *me, const uint64_t *p, uint64_t expected,
                                             uint64_t got)
{
    me->pub->bad++;
    if (!__atomic_exchange_n(&corrupt_said, 1, __ATOMIC_ACQ_REL))
        put_line("!corrupt");
    if (__atomic_fetch_add(&reports, 1, __ATOMIC_RELAXED) < REPORTS)
        put_line("!bad %x expected %x got %x cpu %u pass %u index %u", (uint64_t)p, expected, got,
                 (uint64_t)me->id, r_pass, r_index);
}

/* Slot `slot` against counter c; 1 when right, else reported. */
static inline int slot_ok(struct cpu *me, const uint64_t *p, uint64_t page, enum sc_fill kind, unsigned slot,
                          uint64_t c)
{
    uint64_t want[SC_SLOT_WORDS];
    uint64_t diff = 0;
    const uint64_t *have = p + slot * SC_SLOT_WORDS;
    sc_expect(opt.mode, kind, page, slot, c, want);
    for (unsigned i = 0; i < SC_SLOT_WORDS; i++)
        diff |= have[i] ^ want[i];
    if (!diff)
        return 1;
    for (unsigned i = 0; i < SC_SLOT_WORDS; i++)
        if (have[i] != want[i]) {
            report(me, have + i, want[i], have[i]);
            break;
        }
    return 0;
}

/* The header, the slot written last and one more, or everything. */
static int page_ok(struct cpu *me, const uint64_t *p, uint64_t page, uint64_t c, int full)
{
    enum sc_fill kind = sc_kind(opt.fill, page);
    if (!slot_ok(me, p, page, kind, 0, c))
        return 0;
    if (!full) {
        unsigned other = 1 + (unsigned)((page + c * 37) % 63);
        return slot_ok(me, p, page, kind, sc_slot_of(c), c) && slot_ok(me, p, page, kind, other, c);
    }
    for (unsigned slot = 1; slot < SC_SLOTS; slot++)
        if (!slot_ok(me, p, page, kind, slot, c))
            return 0;
    return 1;
}

static void write_whole(uint64_t *p, uint64_t page, uint64_t c)
{
    enum sc_fill kind = sc_kind(opt.fill, page);
    for (unsigned slot = 0; slot < SC_SLOTS; slot++)
        sc_expect(opt.mode, kind, page, slot, c, p + slot * SC_SLOT_WORDS);
}

/* Bring a page that is at c - 1 to c. */
static void write_pass(uint64_t *p, uint64_t page, uint64_t c)
{
    if (opt.mode == SC_FLIP) {
        write_whole(p, page, c);
        return;
    }
    enum sc_fill kind = sc_kind(opt.fill, page);
    unsigned slot = sc_slot_of(c);
    sc_slot(kind, page, slot, c, p + slot * SC_SLOT_WORDS);
    p[1] = sc_seal(kind, page, c);
    p[0] = c;
}

static void fill(struct cpu *me)
{
    volatile struct sc_cpu *pub = me->pub;
    for (uint64_t i = 0; i < pub->pages; i++) {
        write_whole(page_at(pub->first + i), pub->first + i, 0);
        maybe_tick(me);
    }
}

/* The pages that are never rewritten: read and compared whole. */
static void check_rest(struct cpu *me)
{
    volatile struct sc_cpu *pub = me->pub;
    uint64_t from = opt.rate ? pub->dirty : 0;
    for (uint64_t i = from; i < pub->pages; i++) {
        uint64_t *p = page_at(pub->first + i);
        if (!page_ok(me, p, pub->first + i, 0, 1))
            write_whole(p, pub->first + i, 0); /* counted once */
        maybe_tick(me);
    }
}

static void finish_check(struct cpu *me)
{
    check_rest(me);
    me->checking = 0;
    verdict_done[me->id] = me->seen;
}

/* Wait until the next page is due; heartbeats go on. */
static void pace(struct cpu *me, uint64_t tsc_per_page)
{
    uint64_t now = rdtsc();
    uint64_t debt = DEBT_MS * tsc_khz;
    if (me->next_page + debt < now)
        me->next_page = now - debt;
    while (me->next_page > now) {
        sleep_until(me->next_tick);
        maybe_tick(me);
        now = rdtsc();
        if (me->checking)
            break; /* a verdict is wanted: no time to lose */
    }
    me->next_page += tsc_per_page;
}

/* A second witness of the pass outside the general registers, so that SSE state is watched too. */
static inline void witness_set(uint64_t pass)
{
    __asm__ volatile("movq %0, %%xmm15" ::"r"(pass));
}

static inline uint64_t witness_get(void)
{
    uint64_t v;
    __asm__ volatile("movq %%xmm15, %0" : "=r"(v));
    return v;
}

static void one_pass(struct cpu *me, uint64_t tsc_per_page)
{
    volatile struct sc_cpu *pub = me->pub;
    uint64_t n = pub->dirty;
    uint64_t first = pub->first;
    uint64_t step = sc_step(opt.mode, r_pass, n);
    witness_set(r_pass);
    for (r_index = 0; r_index < n;) {
        uint64_t page = first + sc_visit(step, r_pass, r_index, n);
        uint64_t *p = page_at(page);
        if (page_ok(me, p, page, r_pass, opt.full || me->checking))
            write_pass(p, page, r_pass + 1);
        else
            write_whole(p, page, r_pass + 1);
        r_index++;
        pub->position = r_pass << 32 | r_index;
        pub->written++;
        if (me->checking && !--me->left)
            finish_check(me);
        maybe_tick(me);
        if (tsc_per_page && !me->checking)
            pace(me, tsc_per_page);
    }
    if (witness_get() != r_pass)
        put_line("!bad xmm15 expected %x got %x cpu %u", r_pass, witness_get(), (uint64_t)me->id);
    r_pass++;
    pub->position = r_pass << 32;
}

static void idle(struct cpu *me)
{
    for (;;) {
        if (me->checking)
            finish_check(me);
        sleep_until(me->next_tick);
        maybe_tick(me);
    }
}

void run(unsigned id)
{
    static struct cpu cpus[SC_CPUS];
    struct cpu *me = &cpus[id];
    *me = (struct cpu){.id = id, .pub = &STATUS->cpu[id]};
    if (id)
        clock_init_cpu(id);
    me->pub->state = 1;
    me->next_tick = rdtsc();
    while (STATUS->magic != SC_MAGIC) /* vCPU 0 lays out the ranges when all are there */
        pause();
    me->pub->state = 2;
    fill(me);
    __atomic_fetch_add(&cpus_filled, 1, __ATOMIC_ACQ_REL);
    while (cpus_filled < STATUS->cpus) {
        sleep_until(me->next_tick);
        maybe_tick(me);
    }
    me->pub->state = 3;
    if (!opt.rate || !me->pub->dirty)
        idle(me);
    uint64_t tsc_per_page = 0;
    if (opt.rate != UINT64_MAX)
        tsc_per_page = tsc_khz * 1000 / (opt.rate * 256) * STATUS->cpus;
    me->next_page = rdtsc();
    r_pass = 0;
    for (;;)
        one_pass(me, tsc_per_page);
}
