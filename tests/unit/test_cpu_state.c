// SPDX-License-Identifier: Apache-2.0
/* Every field of a vCPU's and the interrupt chips' state that has a range is refused outside of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hv/cpu/state.h"
#include "proto/wire.h"

struct sample {
    Ferry__Vcpu v;
    Ferry__Segment seg[8], *segs[8];
    Ferry__Msr msr[2], *msrs[2];
    uint64_t gpr[16], xcr[1], dr[6], pdptr[4];
    uint8_t xsave[4096], lapic[1024];
    Ferry__CpuPolicy policy;
    uint32_t indices[2];
    Ferry__IrqChips chips;
    Ferry__PicChip pic[2];
    uint64_t redirection[24];
    Ferry__Pit pit;
    Ferry__PitChannel channel[3], *channels[3];
};

static void fill(struct sample *s)
{
    memset(s, 0, sizeof *s);
    ferry__vcpu__init(&s->v);
    ferry__cpu_policy__init(&s->policy);
    for (int i = 0; i < 8; i++) {
        ferry__segment__init(&s->seg[i]);
        s->segs[i] = &s->seg[i];
    }
    for (int i = 0; i < 2; i++) {
        ferry__msr__init(&s->msr[i]);
        s->msrs[i] = &s->msr[i];
        s->indices[i] = s->msr[i].index = 0x174 + (unsigned)i;
        ferry__pic_chip__init(&s->pic[i]);
    }
    s->policy.msrs = s->indices;
    s->policy.n_msrs = 2;
    s->v.msrs = s->msrs;
    s->v.n_msrs = 2;
    s->v.segments = s->segs;
    s->v.n_segments = 8;
    s->v.gpr = s->gpr;
    s->v.n_gpr = 16;
    s->v.xcr = s->xcr;
    s->v.n_xcr = 1;
    s->xcr[0] = 1;
    s->v.dr = s->dr;
    s->v.n_dr = 6;
    s->v.pdptr = s->pdptr;
    s->v.xsave = (ProtobufCBinaryData){.data = s->xsave, .len = 576};
    s->v.lapic = (ProtobufCBinaryData){.data = s->lapic, .len = 1024};
    ferry__irq_chips__init(&s->chips);
    s->chips.master = &s->pic[0];
    s->chips.slave = &s->pic[1];
    s->chips.ioapic_base = 0xfec00000u;
    s->chips.ioapic_redirection = s->redirection;
    s->chips.n_ioapic_redirection = 24;
    ferry__pit__init(&s->pit);
    for (int i = 0; i < 3; i++) {
        ferry__pit_channel__init(&s->channel[i]);
        s->channel[i].count = 65536;
        s->channels[i] = &s->channel[i];
    }
    s->pit.channels = s->channels;
    s->pit.n_channels = 3;
}

static int check(struct sample *s)
{
    struct fy_err e;
    if (fy_vcpu_validate(&s->v, 0, &s->policy, &e) < 0)
        return -1;
    return fy_irqchips_validate(&s->chips, &e) < 0 || fy_pit_validate(&s->pit, &e) < 0 ? -1 : 0;
}

#define REFUSED(change)                                                                                      \
    do {                                                                                                     \
        struct sample s;                                                                                     \
        fill(&s);                                                                                            \
        assert_int_equal(check(&s), 0);                                                                      \
        change;                                                                                              \
        if (check(&s) == 0)                                                                                  \
            fail_msg("%s is accepted", #change);                                                             \
    } while (0)

static void test_vcpu_ranges(void **state)
{
    (void)state;
    REFUSED(s.v.index = 1);
    REFUSED(s.v.n_gpr = 15);
    REFUSED(s.v.n_segments = 7);
    REFUSED(s.seg[3].type = 16);
    REFUSED(s.seg[3].dpl = 4);
    REFUSED(s.seg[7].selector = 0x10000);
    REFUSED(s.v.gdt_limit = 0x10000);
    REFUSED(s.v.idt_limit = 0x10000);
    REFUSED(s.v.cr8 = 16);
    REFUSED(s.v.n_pdptr = 3);
    REFUSED(s.v.n_xcr = 0);
    REFUSED(s.v.n_dr = 5);
    REFUSED(s.v.lapic.len = 1023);
    REFUSED(s.v.xsave.len = 575);
    REFUSED(s.v.xsave.len = 4097);
    REFUSED(s.xsave[512] = 4); /* AVX, which the policy lacks */
    REFUSED(s.xsave[520] = 1); /* compact format */
    REFUSED(s.xsave[26] = 1);  /* MXCSR bit 16 */
    REFUSED(s.xcr[0] = 7);
    REFUSED(s.xcr[0] = 0);
    REFUSED(s.v.exception_vector = 32);
    REFUSED(s.v.exception_pending = s.v.exception_injected = true);
    REFUSED(s.v.interrupt_vector = 256);
    REFUSED(s.v.interrupt_shadow = 4);
    REFUSED(s.v.sipi_vector = 256);
    REFUSED(s.v.run_state = 5);
    REFUSED(s.v.smm = true);
    REFUSED(s.v.n_msrs = 1);
    REFUSED(s.msr[1].index = 0x174);
    REFUSED(s.msr[0].index = 0x10);
}

static void test_chip_ranges(void **state)
{
    (void)state;
    REFUSED(s.chips.slave = NULL);
    REFUSED(s.pic[0].irr = 256);
    REFUSED(s.pic[1].priority_add = 8);
    REFUSED(s.pic[1].init_state = 4);
    REFUSED(s.chips.n_ioapic_redirection = 23);
    REFUSED(s.chips.ioapic_base = 0);
    REFUSED(s.chips.ioapic_id = 16);
    REFUSED(s.pit.n_channels = 2);
    REFUSED(s.channel[0].count = 0);
    REFUSED(s.channel[0].count = 65537);
    REFUSED(s.channel[1].mode = 8);
    REFUSED(s.channel[2].rw_mode = 4);
    REFUSED(s.channel[2].loaded_ago_ns = 1ull << 63);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vcpu_ranges),
                                       cmocka_unit_test(test_chip_ranges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
