// SPDX-License-Identifier: Apache-2.0
/* Constructors of the chips. Each claims its ports on `bus`, fills *out and is freed by out->ops->free. */
#ifndef FERRY_DEV_CHIPS_H
#define FERRY_DEV_CHIPS_H

#include "hv/dev/device.h"
#include "hv/dev/gate.h"

/* 16550A at ports 0x3f8..0x3ff, GSI 4 (National PC16550D data sheet). */
int fy_serial_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_device *out,
                  struct fy_err *e);
/* Feed console input; returns how much was taken (the rest: later, when host->console_room is called). Any
 * thread. */
size_t fy_serial_input(struct fy_device *serial, const uint8_t *buf, size_t len);
/* Free room for input, in bytes. Any thread. */
size_t fy_serial_input_room(struct fy_device *serial);

/* There may be room for output again (host->console_out_room). Any thread. */
void fy_serial_output_room(struct fy_device *serial);

/* The console's way out, and its memory. What chips put out passes the output gate; what the gate holds
 * waits here, at most FY_CONSOLE_HELD bytes, and travels with the guest. What has passed goes into a ring of
 * the last 64 KiB, which travels too, and to the viewers. No ports. */
struct fy_console_config {
    struct fy_gate *gate; /* NULL: open; else it outlives the console */
    void *arg;
    /* Optional: bytes that have passed, in order, the console locked. */
    void (*out)(void *arg, const uint8_t *buf, size_t len);
    /* Optional: fy_console_room is no longer below FY_CONSOLE_LOW. Nothing locked. */
    void (*room)(void *arg);
};
#define FY_CONSOLE_HELD 65536
int fy_console_new(const struct fy_console_config *config, struct fy_device *out, struct fy_err *e);
/* Put out; returns how much was taken. The room: how much is taken at least, whatever epoch begins meanwhile.
 * Any thread, also with a chip's lock held. */
size_t fy_console_put(struct fy_device *console, const uint8_t *buf, size_t len);
size_t fy_console_room(struct fy_device *console);
/* While it is locked nothing passes, so that the scrollback and what follows fit together. Any thread. */
void fy_console_lock(struct fy_device *console);
void fy_console_unlock(struct fy_device *console);
/* Copy the scrollback behind the first `after` bytes of all output, oldest first; returns its length (at most
 * room), and in *position its first byte's place in all output (with nothing to copy: the next byte's). The
 * console is locked. */
size_t fy_console_scrollback(struct fy_device *console, uint64_t after, uint8_t *buf, size_t room,
                             uint64_t *position);
#define FY_CONSOLE_SCROLLBACK 65536

/* MC146818 RTC and CMOS at ports 0x70, 0x71, GSI 8. memory_bytes fills the usual size bytes. */
int fy_rtc_new(struct fy_bus *bus, const struct fy_dev_host *host, uint64_t memory_bytes,
               struct fy_device *out, struct fy_err *e);
/* The time asked for by host->wake_at has come. */
void fy_rtc_wake(struct fy_device *rtc);

/* ACPI PM1 event and control blocks, the reset register (port 0xcf9), the i8042's reset command (port
 * 0x64), the power button; GSI 9. Addresses: hv/dev/platform.h. */
int fy_pm_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_device *out, struct fy_err *e);
/* Before the machine runs: add the block of general-purpose events. */
int fy_pm_add_events(struct fy_bus *bus, struct fy_device *pm, struct fy_err *e);
/* General-purpose event `bit` has happened: its status and the SCI. Any thread. */
void fy_pm_event(struct fy_device *pm, unsigned bit);
/* Press the power button: PWRBTN_STS and its SCI. Any thread. */
void fy_pm_power_button(struct fy_device *pm);

/* VM generation ID: registers at FY_VMGENID_ADDRESS. id: the first one; NULL: of random bytes. */
#define FY_VMGENID_BYTES 16
int fy_vmgenid_new(struct fy_bus *bus, const uint8_t *id, struct fy_device *out, struct fy_err *e);
/* This guest is a copy from now on: another ID, and the guest is told through pm. vCPUs are parked, since it
 * is read in pieces. */
int fy_vmgenid_change(struct fy_device *vmgenid, struct fy_device *pm, struct fy_err *e);
void fy_vmgenid_get(struct fy_device *vmgenid, uint8_t id[FY_VMGENID_BYTES]);
/* VMClock: registers at FY_VMCLOCK_ADDRESS. Going on with a loaded state is a disturbance of the guest's
 * clocks; copied: the guest is a copy from now on, too. steady: its time is counted by instructions, and no
 * move disturbs it. Any thread. */
int fy_vmclock_new(struct fy_bus *bus, bool steady, struct fy_device *out, struct fy_err *e);
void fy_vmclock_copied(struct fy_device *vmclock);

/* Debug exit: a 32-bit write of V at port 0xf4 ends the guest with status 2V + 1. */
int fy_debug_exit_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_device *out,
                      struct fy_err *e);

#endif
