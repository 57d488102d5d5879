// SPDX-License-Identifier: Apache-2.0
/* Checks of vCPU and chip state from outside, before any engine sees it. Ranges: docs/spec/state.md. */
#ifndef FERRY_CPU_STATE_H
#define FERRY_CPU_STATE_H

#include "hv/base/err.h"
#include "proto/machine.pb-c.h"
#include "proto/state.pb-c.h"

#define FY_XSAVE_MIN 576
#define FY_XSAVE_MAX 4096
#define FY_LAPIC_LEN 1024
#define FY_STATE_MSRS_MAX 512
/* PitChannel.loaded_ago_ns; what is longer ago is saved as this. */
#define FY_PIT_AGO_MAX ((1ull << 62) - 1)

/* Pure. 0, or -1 with FY_ECORRUPT and the field's name. */
int fy_vcpu_validate(const Ferry__Vcpu *v, unsigned index, const Ferry__CpuPolicy *policy, struct fy_err *e);
int fy_irqchips_validate(const Ferry__IrqChips *c, struct fy_err *e);
int fy_pit_validate(const Ferry__Pit *p, struct fy_err *e);

#endif
