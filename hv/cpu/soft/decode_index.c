// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/soft/decode_index.h"

#include <pthread.h>
#include <string.h>

static struct soft_index table;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool ready;

static unsigned bits_in(unsigned v)
{
    return (unsigned)__builtin_popcount(v);
}

static uint8_t size_of(char type)
{
    switch (type) {
    case 'b':
        return 1;
    case 'w':
        return 2;
    case 'd':
        return 4;
    case 'q':
        return 8;
    case 'z':
        return SOFT_SIZE_Z;
    case 'y':
        return SOFT_SIZE_Y;
    default:
        return SOFT_SIZE_V;
    }
}

/* Registers that are named outright. */
static bool fixed_operand(struct soft_form *f, const char *op, size_t n)
{
    static const struct {
        char name[4];
        uint8_t size;
    } names[] = {{"AL", 1},
                 {"AX", 2},
                 {"eAX", SOFT_SIZE_Z},
                 {"rAX", SOFT_SIZE_V},
                 {"CL", 0},
                 {"DX", 0},
                 {"ES", 0},
                 {"CS", 0},
                 {"SS", 0},
                 {"DS", 0},
                 {"FS", 0},
                 {"GS", 0},
                 {"ST0", 0},
                 {"STi", 0}};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i].name) == n && !memcmp(names[i].name, op, n)) {
            if (!f->size)
                f->size = names[i].size;
            if (!memcmp(op, "STi", n)) /* like MMX registers, they know no REX */
                f->bits |= SOFT_FORM_MMX_RM;
            return true;
        }
    return false;
}

static uint8_t immediate(const struct soft_form *f, char type)
{
    switch (type) {
    case 'b':
        return f->imm == SOFT_IMM_W ? SOFT_IMM_WB : SOFT_IMM_B;
    case 's':
        return SOFT_IMM_SB;
    case 'w':
        return SOFT_IMM_W;
    case 'v':
        return SOFT_IMM_V;
    default:
        return SOFT_IMM_Z;
    }
}

static void integer(struct soft_form *f, char type, unsigned modrm, unsigned byte)
{
    if (!f->size)
        f->size = size_of(type);
    f->bits |= modrm | (type == 'b' ? byte : 0);
}

static void parse_operand(struct soft_form *f, const char *op, size_t n, bool first, bool simd)
{
    char type = n > 1 ? op[1] : 0;
    switch (op[0]) {
    case '1':
        f->imm = SOFT_IMM_ONE;
        break;
    case 'A':
        f->imm = SOFT_IMM_FAR;
        break;
    case 'B':
        integer(f, type, SOFT_FORM_VVVV, 0);
        break;
    case 'C':
    case 'D':
        f->bits |= SOFT_FORM_MODRM | (op[0] == 'C' ? SOFT_FORM_CR : SOFT_FORM_DR);
        break;
    case 'E':
    case 'R':
        integer(f, type, SOFT_FORM_MODRM, SOFT_FORM_BYTE_RM);
        break;
    case 'M': /* of a known size only where it is an integer: Mdq, Mp, Ms, ... are not */
        if (!simd && n == 2 && strchr("bwdqvy", type))
            integer(f, type, 0, 0);
        else if (n == 2 && (type == 'b' || type == 'w' || type == 'y'))
            integer(f, type, 0, 0);
        f->bits |= SOFT_FORM_MODRM;
        break;
    case 'G':
        integer(f, type, SOFT_FORM_MODRM, SOFT_FORM_BYTE_REG);
        break;
    case 'Z':
        integer(f, type, SOFT_FORM_PLUS_R, SOFT_FORM_BYTE_REG);
        break;
    case 'H':
        f->bits |= SOFT_FORM_VVVV;
        break;
    case 'I':
        f->imm = immediate(f, type);
        break;
    case 'J':
        f->imm = type == 'b' ? SOFT_IMM_SB : SOFT_IMM_Z;
        break;
    case 'L':
        f->imm = SOFT_IMM_L;
        break;
    case 'N':
    case 'Q':
        f->bits |= SOFT_FORM_MODRM | SOFT_FORM_MMX_RM;
        break;
    case 'O':
        integer(f, type, 0, 0);
        f->imm = SOFT_IMM_MOFFS;
        break;
    case 'P':
        f->bits |= SOFT_FORM_MODRM | SOFT_FORM_MMX_REG;
        break;
    case 'S':
        f->bits |= SOFT_FORM_MODRM | SOFT_FORM_SREG | (first ? SOFT_FORM_TO_SREG : 0);
        break;
    case 'U':
    case 'V':
    case 'W':
        f->bits |= SOFT_FORM_MODRM;
        break;
    case 'X':
    case 'Y':
        integer(f, type, SOFT_FORM_STRING, 0);
        break;
    default:
        break;
    }
}

static struct soft_form parse(const struct soft_row *r)
{
    struct soft_form f = {0};
    for (const char *p = r->operands; *p;) {
        size_t n = strcspn(p, ",");
        if (!fixed_operand(&f, p, n))
            parse_operand(&f, p, n, p == r->operands, r->flags & (SOFT_R_SIMD | SOFT_R_X87));
        p += n + (p[n] == ',');
    }
    if (r->ext >= 0 || r->mod)
        f.bits |= SOFT_FORM_MODRM;
    if (f.bits & (SOFT_FORM_CR | SOFT_FORM_DR))
        f.size = SOFT_SIZE_Y;
    if (!f.size)
        f.size = r->flags & SOFT_R_SIMD ? SOFT_SIZE_Y : SOFT_SIZE_V;
    unsigned high = r->opcode & 0xf0;
    if ((r->map == SOFT_M1 && high == 0x70) ||
        (r->map == SOFT_M0F && (high == 0x40 || high == 0x80 || high == 0x90)))
        f.bits |= SOFT_FORM_CC;
    if (r->map == SOFT_M1 && r->opcode == 0xd7) /* XLAT */
        f.bits |= SOFT_FORM_STRING;
    return f;
}

static struct soft_candidate candidate(const struct soft_row *r)
{
    static const uint16_t mods[] = {SOFT_C_MEM | SOFT_C_REG, SOFT_C_MEM, SOFT_C_REG};
    static const uint16_t ws[] = {SOFT_C_W0, SOFT_C_W1, SOFT_C_W0 | SOFT_C_W1};
    static const uint16_t ls[] = {SOFT_C_L0, SOFT_C_L1, SOFT_C_L0 | SOFT_C_L1};
    unsigned takes = mods[r->mod] | ws[r->vex_w] | ls[r->vex_l];
    switch (r->prefix) {
    case 0:
        takes |= SOFT_C_NONE | SOFT_C_66 | SOFT_C_F3 | SOFT_C_F2;
        break;
    case 1:
        takes |= SOFT_C_NONE;
        break;
    case 2:
        takes |= SOFT_C_NONE | SOFT_C_66;
        break;
    default:
        takes |= r->prefix == 0x66 ? SOFT_C_66 : r->prefix == 0xf3 ? SOFT_C_F3 : SOFT_C_F2;
        break;
    }
    if (!(r->flags & SOFT_R_ONLY64))
        takes |= SOFT_C_16 | SOFT_C_32;
    if (!(r->flags & SOFT_R_NO64))
        takes |= SOFT_C_64;
    return (struct soft_candidate){.takes = (uint16_t)takes,
                                   .ext = r->ext < 0 ? 0xff : (uint8_t)(1u << r->ext),
                                   .rm = r->rm < 0 ? 0xff : (uint8_t)(1u << r->rm),
                                   .row = (uint16_t)(r - soft_rows),
                                   .feature = r->feature};
}

/* The fewer instructions a candidate takes, the earlier it is asked. */
static unsigned breadth(const struct soft_candidate *c)
{
    return bits_in(c->takes) + bits_in(c->ext) + bits_in(c->rm);
}

static void append(struct soft_list *list, const struct soft_candidate *from, unsigned n, unsigned reg)
{
    list->start = (uint16_t)table.candidate_count;
    list->count = 0;
    for (unsigned i = 0; i < n; i++) {
        if (!(from[i].ext >> reg & 1) && reg < 8)
            continue;
        if (table.candidate_count == SOFT_CANDIDATES_MAX) {
            table.full = true;
            return;
        }
        table.candidates[table.candidate_count++] = from[i];
        list->count++;
    }
}

/* All rows of one opcode, narrow ones first; split by ModRM.reg where that shortens the search. */
static void index_opcode(struct soft_list *list, struct soft_candidate *c, unsigned n)
{
    bool group = false;
    for (unsigned i = 0; i < n; i++) {
        group |= c[i].ext != 0xff;
        list->modrm |= (table.forms[c[i].row].bits & SOFT_FORM_MODRM) != 0;
        for (unsigned k = i; k > 0 && breadth(&c[k]) < breadth(&c[k - 1]); k--) {
            struct soft_candidate swap = c[k];
            c[k] = c[k - 1];
            c[k - 1] = swap;
        }
    }
    if (!group || n < 4 || table.split_count == SOFT_SPLITS_MAX) {
        append(list, c, n, 8);
        return;
    }
    list->split = true;
    list->count = 1;
    list->start = (uint16_t)table.split_count++;
    for (unsigned reg = 0; reg < 8; reg++)
        append(&table.split[list->start][reg], c, n, reg);
}

static void make(void)
{
    static struct soft_candidate of_opcode[SOFT_MAPS][256][64];
    static uint8_t count[SOFT_MAPS][256];
    table.full = soft_row_count > SOFT_ROWS_MAX;
    for (unsigned i = 0; i < soft_row_count && i < SOFT_ROWS_MAX; i++) {
        const struct soft_row *r = &soft_rows[i];
        table.forms[i] = parse(r);
        if (count[r->map][r->opcode] == 64)
            table.full = true;
        else
            of_opcode[r->map][r->opcode][count[r->map][r->opcode]++] = candidate(r);
    }
    for (unsigned m = 0; m < SOFT_MAPS; m++)
        for (unsigned op = 0; op < 256; op++)
            if (count[m][op])
                index_opcode(&table.lists[m][op], of_opcode[m][op], count[m][op]);
    __atomic_store_n(&ready, true, __ATOMIC_RELEASE);
}

const struct soft_index *soft_index_get(void)
{
    if (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE))
        pthread_once(&once, make);
    return &table;
}
