// SPDX-License-Identifier: Apache-2.0
/* Run state, pending and injected events, debug registers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/cpu/kvm/internal.h"

/* proto/state.proto numbers the shadows 1 STI, 2 MOV SS; KVM the other way round. */
static uint32_t swap_shadow(uint32_t s)
{
    return (s & 1) << 1 | (s >> 1 & 1);
}

static void events_out(const struct kvm_vcpu_events *ev, bool payload, Ferry__Vcpu *v)
{
    v->exception_pending = payload && ev->exception.pending;
    v->exception_injected = ev->exception.injected;
    v->exception_vector = v->exception_pending || v->exception_injected ? ev->exception.nr & 31 : 0;
    v->exception_has_error = ev->exception.has_error_code;
    v->exception_error = ev->exception.error_code;
    v->exception_has_payload = payload && ev->exception_has_payload;
    v->exception_payload = v->exception_has_payload ? ev->exception_payload : 0;
    v->interrupt_injected = ev->interrupt.injected;
    v->interrupt_vector = ev->interrupt.nr;
    v->interrupt_soft = ev->interrupt.soft;
    v->interrupt_shadow = swap_shadow(ev->interrupt.shadow);
    v->nmi_injected = ev->nmi.injected;
    v->nmi_pending = ev->nmi.pending;
    v->nmi_masked = ev->nmi.masked;
    v->sipi_vector = ev->sipi_vector & 0xff;
    v->smm = ev->smi.smm;
    v->smm_pending = ev->smi.pending;
    v->smm_inside_nmi = ev->smi.smm_inside_nmi;
    v->latched_init = ev->smi.latched_init;
    v->triple_fault_pending = ev->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT && ev->triple_fault.pending;
}

int fy_kvm_events_get(struct fy_kvm *k, int fd, Ferry__Vcpu *v, struct fy_err *e)
{
    struct kvm_mp_state mp;
    if (ioctl(fd, KVM_GET_MP_STATE, &mp) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_MP_STATE");
    v->run_state = mp.mp_state;
    struct kvm_vcpu_events ev;
    memset(&ev, 0, sizeof ev);
    if (ioctl(fd, KVM_GET_VCPU_EVENTS, &ev) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_VCPU_EVENTS");
    events_out(&ev, k->has_payload, v);
    struct kvm_debugregs d;
    if (ioctl(fd, KVM_GET_DEBUGREGS, &d) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_DEBUGREGS");
    v->dr = calloc(6, sizeof *v->dr);
    if (!v->dr)
        return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
    v->n_dr = 6;
    memcpy(v->dr, d.db, sizeof d.db);
    v->dr[4] = d.dr6;
    v->dr[5] = d.dr7;
    return 0;
}

static void events_in(const Ferry__Vcpu *v, const struct fy_kvm *k, struct kvm_vcpu_events *ev)
{
    memset(ev, 0, sizeof *ev);
    ev->flags =
        KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW;
    ev->exception.injected = v->exception_injected;
    ev->exception.pending = v->exception_pending;
    ev->exception.nr = (uint8_t)v->exception_vector;
    ev->exception.has_error_code = v->exception_has_error;
    ev->exception.error_code = v->exception_error;
    if (k->has_payload) {
        ev->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
        ev->exception_has_payload = v->exception_has_payload;
        ev->exception_payload = v->exception_payload;
    }
    ev->interrupt.injected = v->interrupt_injected;
    ev->interrupt.nr = (uint8_t)v->interrupt_vector;
    ev->interrupt.soft = v->interrupt_soft;
    ev->interrupt.shadow = (uint8_t)swap_shadow(v->interrupt_shadow);
    ev->nmi.injected = v->nmi_injected;
    ev->nmi.pending = v->nmi_pending;
    ev->nmi.masked = v->nmi_masked;
    ev->sipi_vector = v->sipi_vector;
    /* Without SMM in the build or the guest KVM refuses the group unless it is wanted for an INIT. */
    if (v->latched_init) {
        ev->flags |= KVM_VCPUEVENT_VALID_SMM;
        ev->smi.latched_init = v->latched_init;
    }
    if (k->has_triple_fault) {
        ev->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        ev->triple_fault.pending = v->triple_fault_pending;
    }
}

int fy_kvm_events_set(struct fy_kvm *k, int fd, const Ferry__Vcpu *v, struct fy_err *e)
{
    struct kvm_debugregs d = {
        .db = {v->dr[0], v->dr[1], v->dr[2], v->dr[3]}, .dr6 = v->dr[4], .dr7 = v->dr[5]};
    if (ioctl(fd, KVM_SET_DEBUGREGS, &d) < 0)
        return fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_DEBUGREGS");
    struct kvm_mp_state mp = {.mp_state = v->run_state};
    if (ioctl(fd, KVM_SET_MP_STATE, &mp) < 0)
        return fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_MP_STATE %u", v->run_state);
    struct kvm_vcpu_events ev;
    events_in(v, k, &ev);
    if (ioctl(fd, KVM_SET_VCPU_EVENTS, &ev) < 0)
        return fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_VCPU_EVENTS");
    return 0;
}
