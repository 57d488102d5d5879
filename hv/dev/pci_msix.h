// SPDX-License-Identifier: Apache-2.0
/* MSI-X of a PCI function (PCI Local Bus Specification 3.0, section 6.8.2): its capability and a BAR with the
 * vector table and the pending bits. Threads: any; it locks itself. */
#ifndef FERRY_DEV_PCI_MSIX_H
#define FERRY_DEV_PCI_MSIX_H

#include "hv/dev/pci.h"

#define FY_MSIX_VECTORS_MAX 128

struct fy_msix;

/* `vectors` (1..FY_MSIX_VECTORS_MAX) in BAR `bar`, which this claims: 4 KiB, table at 0, pending bits at
 * 0x800. NULL on error. Free it before the function's bus. */
struct fy_msix *fy_msix_new(struct fy_pci_function *f, unsigned bar, unsigned vectors, struct fy_err *e);
void fy_msix_free(struct fy_msix *m);

/* From the function's config_written: the control word may have changed. The configuration lock is held. */
void fy_msix_config_written(struct fy_msix *m);
bool fy_msix_enabled(struct fy_msix *m);
/* Send vector n, or remember it as pending while it is masked. Out of range: nothing. */
void fy_msix_raise(struct fy_msix *m, unsigned n);

Ferry__Msix *fy_msix_save(struct fy_msix *m, struct fy_err *e);
int fy_msix_check(const struct fy_msix *m, const Ferry__Msix *s, const char *id, struct fy_err *e);
/* After fy_pci_load. Sends nothing: what is pending and unmasked was so when it was saved. */
void fy_msix_load(struct fy_msix *m, const Ferry__Msix *s);
void fy_msix_reset(struct fy_msix *m);

#endif
