// SPDX-License-Identifier: Apache-2.0
/* Private to the virtio transport: virtio.c (life, kicks, interrupts), virtio_pci.c (registers),
 * virtio_state.c (save, load). */
#ifndef FERRY_DEV_VIRTIO_INTERNAL_H
#define FERRY_DEV_VIRTIO_INTERNAL_H

#include <pthread.h>

#include "hv/dev/pci_msix.h"
#include "hv/dev/virtio.h"

#define STATUS_ACKNOWLEDGE 1u
#define STATUS_DRIVER 2u
#define STATUS_DRIVER_OK 4u
#define STATUS_FEATURES_OK 8u
#define STATUS_NEEDS_RESET 64u
#define STATUS_FAILED 128u
#define STATUS_ALL 0xcfu

#define ISR_QUEUE 1u
#define ISR_CONFIG 2u
#define NO_VECTOR 0xffffu

/* Places in BAR 0. */
#define REG_BAR 0
#define MSIX_BAR 1
#define REG_COMMON 0x0000u
#define REG_COMMON_BYTES 64u
#define REG_ISR 0x1000u
#define REG_DEVICE 0x2000u
#define REG_NOTIFY 0x3000u
#define REG_NOTIFY_STEP 4u
#define REG_BAR_BYTES 0x4000u

struct fy_virtio_kick {
    struct fy_virtio *v;
    unsigned queue;
    int fd; /* eventfd */
    struct fy_watch *watch;
    bool doorbell; /* the engine signals it without an exit */
};

struct fy_virtio {
    const struct fy_virtio_type *type;
    struct fy_dev_ops ops; /* the device's, with the type's name */
    struct fy_virtio_config config;
    char id[32];
    void *dev;
    struct fy_gmem *gmem;
    struct fy_pci_function *f;
    struct fy_msix *msix;
    unsigned window; /* of the capability through which configuration space reaches BAR 0 */
    struct fy_virtio_kick *kicks;
    char (*queue_names)[56];
    struct fy_vq *queues;

    /* Set in bar_moved, under the configuration lock. */
    uint64_t notify_gpa;

    pthread_mutex_t lock; /* all below */
    bool paused;
    bool active; /* DRIVER_OK, and not broken */
    uint32_t status, isr, generation;
    uint64_t driver_features;
    uint32_t device_feature_select, driver_feature_select, queue_select;
    uint16_t config_vector;
};

uint64_t fy_virtio_offered(const struct fy_virtio *v);
/* The lock is held. */
void fy_virtio_set_status(struct fy_virtio *v, uint32_t status);
void fy_virtio_start_queue(struct fy_virtio *v, unsigned q);
void fy_virtio_activate(struct fy_virtio *v, bool fresh);
/* Level of INTx from isr. */
void fy_virtio_update_intx(struct fy_virtio *v);

/* virtio_pci.c */
int fy_virtio_pci_make(struct fy_pci *pci, struct fy_virtio *v, struct fy_err *e);
/* virtio_state.c */
int fy_virtio_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e);
int fy_virtio_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e);

#endif
