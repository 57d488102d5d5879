// SPDX-License-Identifier: Apache-2.0
/* The control socket of ferry-hv: proto/control.proto over unix seqpacket, any number of connections, all on
 * the main thread's loop. docs/spec/control.md. */
#ifndef FERRY_CONTROL_SERVER_H
#define FERRY_CONTROL_SERVER_H

#include <stdint.h>

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/vm/life.h"

struct fy_server;
struct fy_virtio;

/* Serve `listen_fd` (taken over, also on failure). life outlives the server. When the process is to end, the
 * loop is stopped after the answer has been sent. */
struct fy_server *fy_server_new(struct fy_loop *loop, int listen_fd, struct fy_life *life,
                                const uint8_t run_id[16], struct fy_err *e);
void fy_server_free(struct fy_server *s);
/* What `status` says of the process's isolation; copied. Main thread. */
void fy_server_set_isolation(struct fy_server *s, const char *layers);

/* For the machine's callbacks. The state is another one: tell subscribers. Main thread. */
void fy_server_changed(void *server);
/* The guest asks for a connection to a port of the host: tell subscribers, one of whom answers. Without any
 * it is refused. Any thread. */
void fy_server_vsock(struct fy_server *s, struct fy_virtio *vsock, uint32_t port, uint64_t id);
/* A network card has lost its backend: tell subscribers. Main thread. */
void fy_server_nics(struct fy_server *s);
/* Likewise a disk its ferry-blk. */
void fy_server_disks(struct fy_server *s);
/* The guest stands at the count that was asked for: answer who waits for it. Main thread. */
void fy_server_reached(struct fy_server *s);
/* The guest wrote: pass it to viewers. Any thread, console lock held. */
void fy_server_console_out(struct fy_server *s, const uint8_t *buf, size_t len);
/* The console takes input again. Any thread. */
void fy_server_console_room(struct fy_server *s);

#endif
