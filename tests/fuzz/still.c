// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/still.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/cpu/kvm/kvm.h"
#include "hv/cpu/state.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/message.h"

struct blob {
    uint8_t *data;
    size_t len;
};

struct still {
    struct fy_engine en; /* first */
    struct fy_engine_config config;
    pthread_mutex_t lock;
    pthread_cond_t kick;
    bool kicked[FY_VCPUS_LIMIT];
    struct blob vcpus[FY_VCPUS_LIMIT], chips, pit;
    Ferry__Clock clock;
    uint64_t tsc[FY_VCPUS_LIMIT];
    bool logging;
};

static unsigned loads;

uint64_t fy_now_ns(void)
{
    return 5000000000u;
}

uint64_t fy_realtime_ns(void)
{
    return 1700000000123456789u;
}

uint64_t fy_thread_cpu_ns(void)
{
    return 0;
}

uint64_t fy_process_cpu_ns(void)
{
    return 0;
}

unsigned still_loads(void)
{
    return loads;
}

static struct still *of(struct fy_engine *en)
{
    return (struct still *)en;
}

static void keep(struct blob *b, const ProtobufCMessage *m)
{
    free(b->data);
    b->len = protobuf_c_message_get_packed_size(m);
    b->data = malloc(b->len + 1);
    MUST(b->data);
    protobuf_c_message_pack(m, b->data);
}

/* A message that was unpacked from outside; the machine has no further use for it. */
static void keep_foreign(struct blob *b, const ProtobufCMessage *m)
{
    fuzz_forget_unknown((ProtobufCMessage *)(uintptr_t)m);
    keep(b, m);
}

static void initial_vcpu(struct still *s, unsigned i)
{
    static uint8_t xsave[FY_XSAVE_MIN];
    static uint8_t lapic[FY_LAPIC_LEN];
    uint64_t gpr[16] = {0};
    uint64_t dr[6] = {0, 0, 0, 0, 0xffff0ff0, 0x400};
    uint64_t xcr[1] = {1};
    Ferry__Segment segment[8];
    Ferry__Segment *segments[8];
    Ferry__Msr msr[STILL_MSRS];
    Ferry__Msr *list[STILL_MSRS];
    Ferry__Vcpu v = FERRY__VCPU__INIT;
    for (int k = 0; k < 8; k++) {
        ferry__segment__init(&segment[k]);
        segments[k] = &segment[k];
    }
    for (int k = 0; k < STILL_MSRS; k++) {
        ferry__msr__init(&msr[k]);
        msr[k].index = s->config.policy->msrs[k];
        list[k] = &msr[k];
    }
    v.index = i;
    v.gpr = gpr;
    v.n_gpr = 16;
    v.segments = segments;
    v.n_segments = 8;
    v.dr = dr;
    v.n_dr = 6;
    v.xcr = xcr;
    v.n_xcr = 1;
    v.msrs = list;
    v.n_msrs = STILL_MSRS;
    v.xsave = (ProtobufCBinaryData){sizeof xsave, xsave};
    v.lapic = (ProtobufCBinaryData){sizeof lapic, lapic};
    keep(&s->vcpus[i], &v.base);
}

static int chips_reset(struct fy_engine *en, struct fy_err *e)
{
    (void)e;
    struct still *s = of(en);
    uint64_t redirection[24] = {0};
    Ferry__PicChip pic = FERRY__PIC_CHIP__INIT;
    Ferry__IrqChips c = FERRY__IRQ_CHIPS__INIT;
    c.master = c.slave = &pic;
    c.ioapic_base = 0xfec00000u;
    c.ioapic_redirection = redirection;
    c.n_ioapic_redirection = 24;
    keep(&s->chips, &c.base);
    Ferry__PitChannel channel = FERRY__PIT_CHANNEL__INIT;
    Ferry__PitChannel *channels[3] = {&channel, &channel, &channel};
    channel.count = 65536;
    Ferry__Pit p = FERRY__PIT__INIT;
    p.channels = channels;
    p.n_channels = 3;
    keep(&s->pit, &p.base);
    return 0;
}

static void engine_free(struct fy_engine *en)
{
    struct still *s = of(en);
    for (unsigned i = 0; i < s->config.vcpus; i++)
        free(s->vcpus[i].data);
    free(s->chips.data);
    free(s->pit.data);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->kick);
    free(s);
}

static void nothing(struct fy_engine *en, unsigned vcpu)
{
    (void)en;
    (void)vcpu;
}

static enum fy_vcpu_end vcpu_run(struct fy_engine *en, unsigned vcpu, char *report)
{
    (void)report;
    struct still *s = of(en);
    pthread_mutex_lock(&s->lock);
    while (!s->kicked[vcpu])
        pthread_cond_wait(&s->kick, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return FY_VCPU_KICKED;
}

static void set_kick(struct still *s, unsigned vcpu, bool on)
{
    pthread_mutex_lock(&s->lock);
    s->kicked[vcpu] = on;
    pthread_cond_broadcast(&s->kick);
    pthread_mutex_unlock(&s->lock);
}

static void vcpu_kick(struct fy_engine *en, unsigned vcpu)
{
    set_kick(of(en), vcpu, true);
}

static void vcpu_unkick(struct fy_engine *en, unsigned vcpu)
{
    set_kick(of(en), vcpu, false);
}

static int vcpu_reset(struct fy_engine *en, unsigned vcpu, const struct fy_cpu_boot *boot, struct fy_err *e)
{
    (void)boot;
    (void)e;
    initial_vcpu(of(en), vcpu);
    return 0;
}

static Ferry__Vcpu *vcpu_save(struct fy_engine *en, unsigned vcpu, struct fy_err *e)
{
    (void)e;
    const struct blob *b = &of(en)->vcpus[vcpu];
    return ferry__vcpu__unpack(NULL, b->len, b->data);
}

static int vcpu_load(struct fy_engine *en, unsigned vcpu, const Ferry__Vcpu *state, struct fy_err *e)
{
    struct still *s = of(en);
    MUST(vcpu < s->config.vcpus && fy_vcpu_validate(state, vcpu, s->config.policy, e) == 0);
    keep_foreign(&s->vcpus[vcpu], &state->base);
    loads++;
    return 0;
}

static int chips_save(struct fy_engine *en, Ferry__IrqChips **chips, Ferry__Pit **pit, struct fy_err *e)
{
    (void)e;
    const struct still *s = of(en);
    *chips = ferry__irq_chips__unpack(NULL, s->chips.len, s->chips.data);
    *pit = ferry__pit__unpack(NULL, s->pit.len, s->pit.data);
    MUST(*chips && *pit);
    return 0;
}

static int chips_load(struct fy_engine *en, const Ferry__IrqChips *chips, const Ferry__Pit *pit,
                      struct fy_err *e)
{
    MUST(fy_irqchips_validate(chips, e) == 0 && fy_pit_validate(pit, e) == 0);
    keep_foreign(&of(en)->chips, &chips->base);
    keep_foreign(&of(en)->pit, &pit->base);
    loads++;
    return 0;
}

static int clock_save(struct fy_engine *en, Ferry__Clock *clock, uint64_t *tsc, struct fy_err *e)
{
    (void)e;
    const struct still *s = of(en);
    clock->guest_ns = s->clock.guest_ns;
    clock->realtime_ns = s->clock.realtime_ns;
    clock->tsc = s->clock.tsc;
    memcpy(tsc, s->tsc, s->config.vcpus * sizeof *tsc);
    return 0;
}

static int clock_load(struct fy_engine *en, const Ferry__Clock *clock, const uint64_t *tsc,
                      uint64_t *elapsed_ns, char *warning, struct fy_err *e)
{
    (void)e;
    struct still *s = of(en);
    s->clock.guest_ns = clock->guest_ns;
    s->clock.realtime_ns = clock->realtime_ns;
    s->clock.tsc = clock->tsc;
    memcpy(s->tsc, tsc, s->config.vcpus * sizeof *tsc);
    *elapsed_ns = 0;
    warning[0] = 0;
    return 0;
}

static void clock_resumed(struct fy_engine *en)
{
    (void)en;
}

static const uint32_t *engine_msrs(struct fy_engine *en, size_t *count)
{
    *count = of(en)->config.policy->n_msrs;
    return of(en)->config.policy->msrs;
}

static void irq(struct fy_engine *en, unsigned gsi, bool level)
{
    (void)en;
    (void)level;
    MUST(gsi < 24);
}

static int dirty_enable(void *arg, bool *initially_set, struct fy_err *e)
{
    (void)e;
    struct still *s = arg;
    MUST(!s->logging);
    s->logging = true;
    *initially_set = true;
    return 0;
}

static void dirty_disable(void *arg)
{
    struct still *s = arg;
    MUST(s->logging);
    s->logging = false;
}

static int dirty_fetch(void *arg, unsigned slot, uint64_t *mask, bool *cleared, struct fy_err *e)
{
    (void)e;
    struct still *s = arg;
    MUST(s->logging && slot < s->config.gmem->slot_count);
    uint64_t words = s->config.gmem->slots[slot].bytes / 4096 / 64;
    mask[0] |= 5;
    mask[words - 1] |= 1ull << 63;
    *cleared = false;
    return 0;
}

static int dirty_clear(void *arg, unsigned slot, uint64_t first, uint64_t count, const uint64_t *mask,
                       struct fy_err *e)
{
    (void)e;
    (void)mask;
    struct still *s = arg;
    MUST(s->logging && slot < s->config.gmem->slot_count && first % 64 == 0 && count % 64 == 0);
    MUST(count && first + count <= s->config.gmem->slots[slot].bytes / 4096);
    return 0;
}

static bool vcpu_dirty(struct fy_engine *en, uint64_t *pages)
{
    memset(pages, 0, of(en)->config.vcpus * sizeof *pages);
    return true;
}

static const struct fy_dirty_ops dirty_ops = {dirty_enable, dirty_disable, dirty_fetch, dirty_clear};

static const struct fy_engine_ops ops = {
    .name = "still",
    .free = engine_free,
    .vcpu_attach = nothing,
    .vcpu_run = vcpu_run,
    .vcpu_kick = vcpu_kick,
    .vcpu_unkick = vcpu_unkick,
    .vcpu_settle = nothing,
    .vcpu_reset = vcpu_reset,
    .vcpu_save = vcpu_save,
    .vcpu_load = vcpu_load,
    .chips_save = chips_save,
    .chips_load = chips_load,
    .chips_reset = chips_reset,
    .clock_save = clock_save,
    .clock_load = clock_load,
    .clock_resumed = clock_resumed,
    .msrs = engine_msrs,
    .irq = irq,
    .dirty = &dirty_ops,
    .vcpu_dirty = vcpu_dirty,
};

struct fy_engine *fy_kvm_engine_new(int kvm_fd, const struct fy_engine_config *config, struct fy_err *e)
{
    (void)kvm_fd;
    struct still *s = calloc(1, sizeof *s);
    MUST(s);
    s->en.ops = &ops;
    s->config = *config;
    ferry__clock__init(&s->clock);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->kick, NULL);
    for (unsigned i = 0; i < config->vcpus; i++)
        initial_vcpu(s, i);
    chips_reset(&s->en, e);
    return &s->en;
}

struct fy_machine *still_machine(struct fy_loop *loop, int runlog_fd, void (*ended)(void *), void *arg)
{
    return still_machine_of(loop, FY_MACHINE_REVISION, runlog_fd, ended, arg);
}

struct fy_machine *still_machine_of(struct fy_loop *loop, uint32_t revision, int runlog_fd,
                                    void (*ended)(void *), void *arg)
{
    static uint8_t uuid[16] = "fuzz";
    char path[64];
    Ferry__Machine d = FERRY__MACHINE__INIT;
    d.revision = revision;
    d.uuid = (ProtobufCBinaryData){sizeof uuid, uuid};
    d.name = (char *)(uintptr_t) "still";
    d.memory_bytes = STILL_BYTES;
    d.vcpus = STILL_VCPUS;
    d.cpu = (Ferry__CpuPolicy *)(uintptr_t)still_policy(true);
    d.debug_exit = true;
    struct fy_machine_config c = {
        .desc = &d,
        .kvm_fd = -1,
        .kernel_fd = -1,
        .initrd_fd = -1,
        .runlog_fd = runlog_fd,
        .loop = loop,
        .ended = ended,
        .arg = arg,
    };
    c.mem_fd = memfd_create("ferry-fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    MUST(c.mem_fd >= 0 && ftruncate(c.mem_fd, (off_t)d.memory_bytes) == 0 &&
         fcntl(c.mem_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", c.mem_fd);
    c.mem_ro_fd = open(path, O_RDONLY | O_CLOEXEC);
    MUST(c.mem_ro_fd >= 0);
    uint64_t took;
    struct fy_err e = {0};
    struct fy_machine *m = fy_machine_new(&c, &took, &e);
    if (!m)
        fprintf(stderr, "%s\n", e.text);
    MUST(m);
    return m;
}
