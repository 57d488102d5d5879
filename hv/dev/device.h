// SPDX-License-Identifier: Apache-2.0
/* What every chip offers the machine, and what the machine offers every chip. */
#ifndef FERRY_DEV_DEVICE_H
#define FERRY_DEV_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/mem/bus.h"

#define FY_CONSOLE_LOW 256 /* bytes of room below which a transmitter is busy */

/* The machine's side. Every function may be called from any thread, also with the device's lock held;
 * none calls back into the device. */
struct fy_dev_host {
    void *arg;
    /* Set the level of an interrupt line (GSI 0..23). */
    void (*irq)(void *arg, unsigned gsi, bool level);
    /* Guest clock in ns: stands while the machine is paused, goes on from the saved value after a load. */
    uint64_t (*guest_ns)(void *arg);
    /* Host CLOCK_REALTIME in seconds, for the RTC. */
    int64_t (*realtime_s)(void *arg);
    /* Bytes that the guest wrote to its console. Returns how many were taken: fewer while output is held and
     * the room for it is full. */
    size_t (*console_out)(void *arg, const uint8_t *buf, size_t len);
    /* How many bytes console_out takes now. NULL: any number. When it was less than FY_CONSOLE_LOW and is no
     * longer, the machine says so to the chips that put out. */
    size_t (*console_out_room)(void *arg);
    /* The guest asks for power-off, a reset, or (debug exit) to end with a status. */
    void (*power_off)(void *arg);
    void (*reset)(void *arg);
    void (*exit)(void *arg, int status);
    /* Optional (NULL allowed): fy_serial_input or the virtio console has room again. */
    void (*console_room)(void *arg);
    /* Optional: host CLOCK_REALTIME in ns, of which realtime_s are the whole seconds. */
    uint64_t (*realtime_ns)(void *arg);
    /* Optional: false while the machine is paused; then timers raise no interrupt. NULL: always running. */
    bool (*running)(void *arg);
    struct fy_loop *loop; /* the main thread's, for timers; NULL in tests without time */
    /* Instead of `loop` where guest time is not the host's: have fy_rtc_wake called when guest_ns has reached
     * `ns` (all ones: never). A later call replaces an earlier one. */
    void (*wake_at)(void *arg, uint64_t ns);
    /* Optional: a message-signalled interrupt, as a write of `data` at `address` would be. */
    void (*msi)(void *arg, uint64_t address, uint32_t data);
    /* Optional: have a write to guest-physical `gpa` signal the eventfd without an exit (on), or no longer
     * (off). false where the engine cannot: then the write comes through the bus. The machine's own business
     * while it is built and at resets, else a vCPU's thread. */
    bool (*doorbell)(void *arg, uint64_t gpa, int eventfd, bool on);
};

/* What went through a device's rings since it was made here. */
struct fy_dev_counters {
    uint64_t requests;
    uint64_t from_guest, to_guest; /* bytes */
};

/* The device's side; the whole vtable of a chip. */
struct fy_dev_ops {
    const char *type;
    uint32_t version; /* of the state message */
    /* Serialise the chip's proto/state.proto message into a fresh malloc'd buffer. The machine is paused. */
    int (*save)(void *dev, uint8_t **buf, size_t *len, struct fy_err *e);
    /* Parse into scratch, validate everything, then commit; on error the chip is unchanged. Paused. Touches
     * no other device, except that it sets its own interrupt line's level. */
    int (*load)(void *dev, const uint8_t *buf, size_t len, struct fy_err *e);
    /* Power-on state. vCPUs are parked. */
    void (*reset)(void *dev);
    void (*free)(void *dev);
    /* Optional. The machine stops: on return, and until resume, the device touches no guest memory, disk or
     * network, and raises no interrupt. vCPUs are parked. */
    void (*pause)(void *dev);
    /* Optional. vCPUs are about to run (again). */
    void (*resume)(void *dev);
    /* Optional. Any thread. */
    void (*counters)(void *dev, struct fy_dev_counters *c);
};

struct fy_device {
    const char *id; /* unique: "serial0", "rtc", "pm", "debug-exit", "console" */
    const struct fy_dev_ops *ops;
    void *dev;
};

#endif
