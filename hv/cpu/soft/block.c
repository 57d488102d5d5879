// SPDX-License-Identifier: Apache-2.0
/* The cache of decoded blocks: finding, making, throwing away. */
#include "hv/cpu/soft/block.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "hv/cpu/soft/decode.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/vm.h"

#define ARENA_BYTES (24ull << 20) /* about half a million instructions */
#define TRIM_BYTES (2ull << 20)   /* more than what an idle kernel runs */
#define BLOCK_MAX (sizeof(struct soft_block) + (SOFT_BLOCK_INSNS + 1) * sizeof(struct soft_insn))
#define HASH 32768u
#define PAGES 4096u

/* The live blocks of a page, and perhaps some dead ones. */
struct code_page {
    uint64_t page;
    struct soft_block *first;
    struct code_page *next;
};

struct soft_cache {
    uint8_t *arena;
    size_t used;
    uint64_t generation;
    struct soft_block *single;
    unsigned live; /* blocks in `hash` */
    struct soft_block *hash[HASH];
    struct code_page *pages[PAGES];
};

struct soft_block soft_unlinked = {
    .next = {&soft_unlinked, &soft_unlinked}, .cost = SOFT_LIMIT_MAX + 1, .flags = SOFT_B_DEAD};

struct soft_cache *soft_cache_new(void)
{
    struct soft_cache *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->single = calloc(1, BLOCK_MAX);
    s->arena =
        mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->arena == MAP_FAILED)
        s->arena = NULL;
    if (!s->single || !s->arena) {
        soft_cache_free(s);
        return NULL;
    }
    return s;
}

void soft_cache_free(struct soft_cache *s)
{
    if (!s)
        return;
    if (s->arena)
        munmap(s->arena, ARENA_BYTES);
    free(s->single);
    free(s);
}

uint64_t soft_cache_generation(const struct soft_cache *s)
{
    return s->generation;
}

static struct soft_block **bucket(struct soft_cache *s, uint64_t phys)
{
    return &s->hash[(phys ^ phys >> 15) & (HASH - 1)];
}

static struct code_page **page_at(struct soft_cache *s, uint64_t page)
{
    struct code_page **p = &s->pages[page & (PAGES - 1)];
    while (*p && (*p)->page != page)
        p = &(*p)->next;
    return p;
}

/* Back to the loop, before this instruction. */
const struct soft_insn *soft_x_poisoned(struct soft_cpu *c, const struct soft_insn *in)
{
    c->insns -= c->block->count - (uint64_t)(in - c->block->code);
    c->rip = soft_rip(c, in);
    return NULL;
}

const struct soft_insn *soft_x_block_end(struct soft_cpu *c, const struct soft_insn *in)
{
    return soft_branch(c, in, soft_rip(c, in), 1);
}

static void poison(struct soft_cpu *c, struct soft_block *b)
{
    if (b->flags & SOFT_B_DEAD)
        return;
    b->flags |= SOFT_B_DEAD;
    b->cost = SOFT_LIMIT_MAX + 1;
    for (unsigned i = 0; i <= b->count; i++)
        b->code[i].fn = soft_x_poisoned;
    struct soft_block **at = bucket(c->cache, b->phys);
    while (*at && *at != b)
        at = &(*at)->hash_next;
    if (*at) {
        *at = b->hash_next;
        c->cache->live--;
    }
    c->stat_invalidated++;
}

void soft_code_drop(struct soft_cpu *c, uint64_t page)
{
    struct code_page *p = *page_at(c->cache, page);
    if (!p)
        return;
    for (struct soft_block *b = p->first, *next; b; b = next) {
        next = b->page_next[b->phys / 4096 == page ? 0 : 1];
        poison(c, b);
    }
    p->first = NULL;
}

void soft_code_leave(struct soft_cpu *c)
{
    if (c->block != &soft_unlinked && !(c->block->flags & SOFT_B_SINGLE))
        poison(c, c->block);
    /* For a branch, which does not look at its block again. */
    __atomic_store_n(&c->limit, 0, __ATOMIC_SEQ_CST);
}

void soft_code_drop_all(struct soft_cpu *c)
{
    if (!c->cache->live)
        return;
    for (unsigned i = 0; i < HASH; i++)
        while (c->cache->hash[i])
            poison(c, c->cache->hash[i]);
    for (unsigned i = 0; i < PAGES; i++)
        for (struct code_page *p = c->cache->pages[i]; p; p = p->next)
            p->first = NULL;
}

void soft_code_take(struct soft_cpu *c)
{
    uint64_t pages[SOFT_INVAL_MAX];
    pthread_mutex_lock(&c->inval_lock);
    unsigned n = c->inval_count;
    bool all = c->inval_all;
    memcpy(pages, c->inval, n * sizeof *pages);
    c->inval_count = 0;
    c->inval_all = false;
    pthread_mutex_unlock(&c->inval_lock);
    if (all)
        soft_code_drop_all(c);
    for (unsigned i = 0; !all && i < n; i++)
        soft_code_drop(c, pages[i]);
}

static void enqueue(struct soft_cpu *c, uint64_t page)
{
    pthread_mutex_lock(&c->inval_lock);
    if (c->inval_count == SOFT_INVAL_MAX)
        c->inval_all = true;
    else
        c->inval[c->inval_count++] = page;
    pthread_mutex_unlock(&c->inval_lock);
    soft_request(c, SOFT_REQ_CODE);
}

void soft_code_written(struct soft_vm *vm, struct soft_cpu *self, uint64_t page)
{
    /* Lines first: whoever marks a line has set its user bit before. */
    __atomic_exchange_n(&vm->code_lines[page], 0, __ATOMIC_SEQ_CST);
    uint64_t users = __atomic_exchange_n(&vm->code_users[page], 0, __ATOMIC_SEQ_CST);
    for (; users; users &= users - 1) {
        struct soft_cpu *c = vm->cpus[__builtin_ctzll(users)];
        if (c == self)
            soft_code_drop(c, page);
        else if (c)
            enqueue(c, page);
    }
}

/* Forget everything. No block runs. */
static void reset(struct soft_cpu *c)
{
    struct soft_cache *s = c->cache;
    s->used = 0;
    s->live = 0;
    s->generation++;
    memset(s->hash, 0, sizeof s->hash);
    memset(s->pages, 0, sizeof s->pages);
    memset(c->jumps, 0, SOFT_JUMPS * sizeof *c->jumps);
    soft_calls_forget(c);
    c->block = &soft_unlinked;
}

void soft_cache_trim(struct soft_cpu *c)
{
    if (c->cache->used < TRIM_BYTES)
        return;
    reset(c);
    madvise(c->cache->arena, ARENA_BYTES, MADV_DONTNEED);
}

/* The page is about to hold code: no vCPU may keep a write way for it. */
static void claim_page(struct soft_cpu *c, uint64_t page)
{
    struct soft_vm *vm = c->vm;
    uint64_t bit = 1ull << c->index;
    if (__atomic_load_n(&vm->code_users[page], __ATOMIC_SEQ_CST) & bit)
        return;
    __atomic_fetch_or(&vm->code_users[page], bit, __ATOMIC_SEQ_CST);
    uint64_t writers = __atomic_load_n(&vm->writers[page], __ATOMIC_SEQ_CST);
    if (writers & bit)
        soft_tlb_drop_page(c, page);
    if (writers & ~bit)
        soft_handshake(vm, c, writers & ~bit, SOFT_REQ_FLUSH_WRITE);
}

/* Announce that bytes [at, at + n) of a claimed page are going to be decoded. */
static void claim_lines(struct soft_cpu *c, uint64_t page, unsigned at, unsigned n, uint64_t *known)
{
    unsigned last = (at + n - 1) / 64;
    uint64_t lines = (~0ull << (at / 64)) & (~0ull >> (63 - (last < 63 ? last : 63)));
    if (lines & ~*known)
        __atomic_fetch_or(&c->vm->code_lines[page], lines, __ATOMIC_SEQ_CST);
    *known |= lines;
}

static const struct soft_insn *raise_ud(struct soft_cpu *c, const struct soft_insn *in)
{
    return soft_raise(c, in, SOFT_UD);
}

static const struct soft_insn *raise_gp(struct soft_cpu *c, const struct soft_insn *in)
{
    return soft_raise_error(c, in, SOFT_GP, 0);
}

static void make_raise(struct soft_insn *in, int why, unsigned len)
{
    memset(in, 0, sizeof *in);
    in->fn = why == SOFT_DECODE_UD ? raise_ud : raise_gp;
    in->len = (uint8_t)(len ? len : 1);
}

/* Under icount, what looks at the clock or at entropy must be the last of its block: only then is the count
 * of instructions exact. */
static bool wants_count(const struct soft_insn *in)
{
    static const char *const names[] = {"rdtsc",  "rdtscp",  "rdmsr",  "wrmsr",       "in_imm",
                                        "in_dx",  "out_imm", "out_dx", "ins",         "outs",
                                        "rdrand", "rdseed",  "rdpmc",  "mov_from_cr", "vmcall"};
    const char *name = soft_rows[in->row].name;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i]))
            return true;
    return false;
}

/* Decode into b from a page's bytes until the block ends. false: the first instruction goes on behind the
 * page. */
static bool decode_page(struct soft_cpu *c, struct soft_block *b, const uint8_t *host, uint64_t page,
                        unsigned at)
{
    uint64_t known = 0;
    unsigned start = at;
    b->count = 0;
    while (b->count < SOFT_BLOCK_INSNS && at < 4096) {
        struct soft_insn *in = &b->code[b->count];
        uint8_t bytes[64];
        unsigned avail = 4096 - at < SOFT_INSN_MAX + 1 ? 4096 - at : SOFT_INSN_MAX + 1;
        claim_lines(c, page, at, avail, &known);
        soft_copy(bytes, host + at, avail);
        int len = soft_decode(bytes, avail, c->mode, c->features, in);
        if (len <= 0 && b->count)
            break;
        if (len == SOFT_DECODE_MORE)
            return false;
        if (len < 0) {
            unsigned seen = in->len;
            make_raise(in, len, seen < avail ? seen : avail);
            at += in->len;
            b->count = 1;
            break;
        }
        in->fn = NULL;
        in->off = (uint16_t)(at - start);
        if (in->base == SOFT_GPR_BLOCK) /* RIP-relative: the decoder knows only its own start */
            in->disp += in->off;
        b->count++;
        at += (unsigned)len;
        if (soft_rows[in->row].flags & SOFT_R_END)
            break;
        if (c->vm->icount && wants_count(in)) {
            b->flags |= SOFT_B_COUNTED;
            break;
        }
    }
    b->bytes = (uint16_t)(at - start);
    return true;
}

/* The one instruction at the end of a page and the start of the next. */
static bool decode_straddle(struct soft_cpu *c, struct soft_block *b, uint64_t lin, const uint8_t *host)
{
    struct soft_span s;
    uint64_t next = (lin & ~0xfffull) + 4096, known = 0;
    unsigned have = 4096 - (lin & 0xfff);
    uint8_t bytes[64];
    if (c->mode != SOFT_64)
        next = (uint32_t)next;
    if (have > SOFT_INSN_MAX || !soft_resolve(c, next, 1, SOFT_FETCH, c->mmu, &s) || !s.host)
        return false;
    b->page2 = (uint64_t)(s.host - c->vm->gmem->host) / 4096;
    claim_page(c, b->page2);
    claim_lines(c, b->page2, 0, SOFT_INSN_MAX, &known);
    soft_copy(bytes, host, have);
    soft_copy(bytes + have, s.host, SOFT_INSN_MAX);
    struct soft_insn *in = &b->code[0];
    int len = soft_decode(bytes, have + SOFT_INSN_MAX, c->mode, c->features, in);
    if (len <= 0)
        make_raise(in, len == SOFT_DECODE_UD ? len : SOFT_DECODE_GP, in->len);
    else
        in->fn = NULL;
    in->off = 0;
    b->count = 1;
    b->bytes = in->len;
    b->flags |= SOFT_B_STRADDLE | SOFT_B_COUNTED;
    return true;
}

static void link_page(struct soft_cache *s, struct soft_block *b, uint64_t page, unsigned link)
{
    struct code_page **at = page_at(s, page);
    if (!*at) {
        struct code_page *p = (void *)(s->arena + s->used);
        s->used += sizeof *p;
        *p = (struct code_page){.page = page};
        *at = p;
    }
    b->page_next[link] = (*at)->first;
    (*at)->first = b;
}

/* Make the block at lin, whose bytes are at host. NULL: fault recorded, or it has to run alone. */
static struct soft_block *build(struct soft_cpu *c, uint64_t lin, const uint8_t *host)
{
    struct soft_cache *s = c->cache;
    uint64_t phys = (uint64_t)(host - c->vm->gmem->host);
    if (ARENA_BYTES - s->used < BLOCK_MAX + 2 * sizeof(struct code_page))
        reset(c);
    struct soft_block *b = (void *)(s->arena + s->used);
    memset(b, 0, sizeof *b);
    b->phys = phys;
    b->page2 = phys / 4096;
    b->key = (uint8_t)c->mode;
    claim_page(c, phys / 4096);
    if (!decode_page(c, b, host - (phys & 4095), phys / 4096, phys & 4095) &&
        !decode_straddle(c, b, lin, host))
        return NULL;
    soft_finish(c, b);
    s->used += (sizeof *b + (b->count + 1u) * sizeof(struct soft_insn) + 15) & ~15ull;
    struct soft_block **at = bucket(s, phys);
    b->hash_next = *at;
    *at = b;
    s->live++;
    link_page(s, b, phys / 4096, 0);
    if (b->page2 != phys / 4096)
        link_page(s, b, b->page2, 1);
    return b;
}

static struct soft_block *lookup(struct soft_cpu *c, uint64_t phys)
{
    struct soft_block *b = *bucket(c->cache, phys);
    while (b && (b->phys != phys || b->key != c->mode))
        b = b->hash_next;
    return b;
}

/* Does the second page of a straddling block still lie where it did? -1: the fetch faults. */
static int second_page(struct soft_cpu *c, const struct soft_block *b, uint64_t lin)
{
    struct soft_span s;
    uint64_t next = (lin & ~0xfffull) + 4096;
    if (c->mode != SOFT_64)
        next = (uint32_t)next;
    if (!soft_resolve(c, next, 1, SOFT_FETCH, c->mmu, &s))
        return -1;
    return s.host && (uint64_t)(s.host - c->vm->gmem->host) / 4096 == b->page2;
}

static struct soft_block *find_phys(struct soft_cpu *c, uint64_t lin)
{
    struct soft_span s;
    if (!soft_resolve(c, lin, 1, SOFT_FETCH, c->mmu, &s) || !s.host)
        return NULL;
    struct soft_block *b = lookup(c, (uint64_t)(s.host - c->vm->gmem->host));
    if (b && (b->flags & SOFT_B_STRADDLE)) {
        int same = second_page(c, b, lin);
        if (same < 0)
            return NULL;
        if (!same) {
            poison(c, b);
            b = NULL;
        }
    }
    return b ? b : build(c, lin, s.host);
}

static uint64_t code_lin(const struct soft_cpu *c, uint64_t rip)
{
    return c->mode == SOFT_64 ? rip : (uint32_t)(c->seg[SOFT_CS].base + rip);
}

struct soft_block *soft_find(struct soft_cpu *c, uint64_t rip)
{
    uint64_t lin = code_lin(c, rip);
    struct soft_jump *j = soft_jump_at(c, lin);
    struct soft_block *b = j->block;
    if (j->lin != lin || j->key != c->jump_key || (b->flags & SOFT_B_DEAD)) {
        if (!soft_branch_ok(c, rip) || !(b = find_phys(c, lin))) {
            /* An instruction that cannot be fetched counts as begun. */
            c->insns += c->exc.pending;
            return NULL;
        }
        *j = (struct soft_jump){lin, b, c->jump_key};
    }
    if (c->mode != SOFT_64 && rip + b->bytes - 1 > c->seg[SOFT_CS].limit)
        return NULL;
    return b;
}

/* Bytes of code from linear addresses; how many, 0: fault recorded. */
static unsigned fetch(struct soft_cpu *c, uint64_t lin, unsigned n, uint8_t *to)
{
    struct soft_span s;
    unsigned room = 4096 - (lin & 0xfff);
    if (n > room)
        n = room;
    if (!soft_resolve(c, lin, n, SOFT_FETCH, c->mmu, &s))
        return 0;
    if (s.host)
        soft_copy(to, s.host, n);
    else
        for (unsigned i = 0; i < n; i++)
            soft_phys_read(c, s.gpa + i, 1, to + i);
    return n;
}

static struct soft_block *fetch_failed(struct soft_cpu *c)
{
    c->insns++;
    return NULL;
}

struct soft_block *soft_single(struct soft_cpu *c, uint64_t rip)
{
    struct soft_block *b = c->cache->single;
    struct soft_insn *in = &b->code[0];
    uint8_t bytes[64];
    unsigned want = SOFT_INSN_MAX + 1;
    if (!soft_branch_ok(c, rip))
        return fetch_failed(c);
    if (c->mode != SOFT_64 && c->seg[SOFT_CS].limit - rip + 1 < want)
        want = (unsigned)(c->seg[SOFT_CS].limit - rip + 1);
    unsigned have = fetch(c, code_lin(c, rip), want, bytes);
    if (!have)
        return fetch_failed(c);
    int len = soft_decode(bytes, have, c->mode, c->features, in);
    if (len == SOFT_DECODE_MORE && have < want) {
        unsigned more = fetch(c, code_lin(c, rip + have), want - have, bytes + have);
        if (!more)
            return fetch_failed(c);
        have += more;
        len = soft_decode(bytes, have, c->mode, c->features, in);
    }
    if (len <= 0)
        make_raise(in, len == SOFT_DECODE_UD ? len : SOFT_DECODE_GP, in->len);
    else
        in->fn = NULL;
    in->off = 0;
    b->flags = SOFT_B_SINGLE | SOFT_B_COUNTED;
    b->count = 1;
    b->bytes = in->len;
    b->phys = ~0ull;
    soft_finish(c, b);
    return b;
}
