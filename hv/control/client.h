// SPDX-License-Identifier: Apache-2.0
/* Client of ferry-hv's control socket, for workers: blocking calls. A lock inside serialises them, so any
 * thread may call; ferryd's event loop uses hv/host/hvlink.h instead. */
#ifndef FERRY_CONTROL_CLIENT_H
#define FERRY_CONTROL_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "proto/control.pb-c.h"

struct fy_ctl;

/* Take ownership of a connected seqpacket socket, also on failure. Answers are awaited for at most
 * timeout_ms (0: forever). */
struct fy_ctl *fy_ctl_new(int sock, unsigned timeout_ms, struct fy_err *e);
void fy_ctl_free(struct fy_ctl *c);

/* Send req (its id is set here) with descriptors and await the answer. On success *resp is the caller's (free
 * with ferry__control_out__free_unpacked), and out_fds[0..*nout) the descriptors that came with it. An error
 * answer of ferry-hv becomes *e with its code and text. Events that arrive meanwhile are dropped. */
int fy_ctl_call(struct fy_ctl *c, Ferry__Request *req, const int *fds, int nfds, Ferry__ControlOut **resp,
                int *out_fds, int *nout, struct fy_err *e);

/* The calls that workers make; each is one request of proto/control.proto. */
int fy_ctl_status(struct fy_ctl *c, Ferry__ControlOut **resp, struct fy_err *e);   /* ->response->status */
int fy_ctl_describe(struct fy_ctl *c, Ferry__ControlOut **resp, struct fy_err *e); /* ->response->describe */
int fy_ctl_memory(struct fy_ctl *c, bool writable, int *fd, uint64_t *bytes, bool *large, struct fy_err *e);
int fy_ctl_pause(struct fy_ctl *c, uint64_t *pause_ns, struct fy_err *e);
/* An operator's pause: stands when the connection ends. */
int fy_ctl_pause_keep(struct fy_ctl *c, struct fy_err *e);
int fy_ctl_resume(struct fy_ctl *c, struct fy_err *e);
int fy_ctl_tracker_open(struct fy_ctl *c, const char *purpose, bool start_all, uint32_t *tracker,
                        uint64_t *pages, int *bitmap_fd, struct fy_err *e);
int fy_ctl_tracker_take(struct fy_ctl *c, uint32_t tracker, uint64_t first, uint64_t count, bool refresh,
                        uint64_t *dirty, uint64_t *remaining, struct fy_err *e);
int fy_ctl_tracker_done(struct fy_ctl *c, uint32_t tracker, struct fy_err *e);
int fy_ctl_tracker_count(struct fy_ctl *c, uint32_t tracker, bool refresh, uint64_t *dirty, struct fy_err *e);
int fy_ctl_tracker_close(struct fy_ctl *c, uint32_t tracker, struct fy_err *e);
int fy_ctl_save_state(struct fy_ctl *c, int *fd, uint64_t *bytes, struct fy_err *e);
/* warning: at least FY_ERR_TEXT bytes, or NULL. */
int fy_ctl_load_state(struct fy_ctl *c, int fd, uint64_t bytes, char *warning, struct fy_err *e);
int fy_ctl_write_back(struct fy_ctl *c, struct fy_err *e);
/* Frames that came after the hand-over (->response->frames), and what another host had of such. */
int fy_ctl_frames(struct fy_ctl *c, Ferry__ControlOut **resp, struct fy_err *e);
int fy_ctl_late_frames(struct fy_ctl *c, const uint8_t *frames, size_t len, struct fy_err *e);
int fy_ctl_latch(struct fy_ctl *c, const uint8_t id[16], struct fy_err *e);

#endif
