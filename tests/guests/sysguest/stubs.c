// SPDX-License-Identifier: Apache-2.0
#include "guest.h"
void group_apic(void) {}
void group_smc(void) {}
void group_odds(void) {}
void ap_main(void);
void ap_main(void) {}
void irq(unsigned vector, u64 *frame) { (void)vector; (void)frame; }
