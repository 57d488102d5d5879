// SPDX-License-Identifier: Apache-2.0
#include "hv/control/client.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "hv/base/io.h"
#include "hv/base/msg.h"

struct fy_ctl {
    int sock;
    uint64_t next_id;
    pthread_mutex_t lock;
    uint8_t buf[FY_MSG_MAX];
};

struct fy_ctl *fy_ctl_new(int sock, unsigned timeout_ms, struct fy_err *e)
{
    struct fy_ctl *c = calloc(1, sizeof *c);
    if (!c) {
        fy_close(&sock);
        fy_fail(e, FY_ERESOURCE, "no memory for a control connection");
        return NULL;
    }
    c->sock = sock;
    c->next_id = 1;
    pthread_mutex_init(&c->lock, NULL);
    struct timeval tv = {.tv_sec = timeout_ms / 1000, .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    return c;
}

void fy_ctl_free(struct fy_ctl *c)
{
    if (!c)
        return;
    fy_close(&c->sock);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static void close_all(int *fds, int n)
{
    for (int i = 0; i < n; i++)
        fy_close(&fds[i]);
}

/* Receive until the answer with `id` comes. Called with the lock held. */
static int await_answer(struct fy_ctl *c, uint64_t id, Ferry__ControlOut **resp, int *fds, int *nfds,
                        struct fy_err *e)
{
    int room = *nfds;
    for (;;) {
        *nfds = room;
        long n = fy_msg_recv(c->sock, c->buf, fds, nfds, e);
        if (n == -2)
            return fy_fail(e, FY_EUNREACHABLE, "ferry-hv does not answer");
        if (n == 0)
            return fy_fail(e, FY_EUNREACHABLE, "ferry-hv closed its control socket (it has ended)");
        if (n < 0)
            return -1;
        Ferry__ControlOut *out = ferry__control_out__unpack(NULL, (size_t)n, c->buf);
        if (!out) {
            close_all(fds, *nfds);
            return fy_fail(e, FY_ECORRUPT, "ferry-hv sent a control message that does not parse");
        }
        if (out->kind_case == FERRY__CONTROL_OUT__KIND_RESPONSE && out->response->id == id) {
            *resp = out;
            return 0;
        }
        close_all(fds, *nfds);
        ferry__control_out__free_unpacked(out, NULL);
    }
}

int fy_ctl_call(struct fy_ctl *c, Ferry__Request *req, const int *fds, int nfds, Ferry__ControlOut **resp,
                int *out_fds, int *nout, struct fy_err *e)
{
    int got[FY_MSG_FDS];
    int ngot = FY_MSG_FDS;
    int rc = -1;
    Ferry__ControlOut *out = NULL;
    pthread_mutex_lock(&c->lock);
    req->id = c->next_id++;
    size_t len = ferry__request__get_packed_size(req);
    if (len > sizeof c->buf) {
        fy_fail(e, FY_EFAIL, "control request of %zu bytes is too long", len);
    } else {
        ferry__request__pack(req, c->buf);
        rc = fy_msg_send(c->sock, c->buf, len, fds, nfds, e);
        if (rc == 0)
            rc = await_answer(c, req->id, &out, got, &ngot, e);
    }
    pthread_mutex_unlock(&c->lock);
    if (rc != 0)
        return -1;
    if (out->response->error) {
        fy_fail(e, (int)out->response->error->code, "%s", out->response->error->text);
        close_all(got, ngot);
        ferry__control_out__free_unpacked(out, NULL);
        return -1;
    }
    int keep = out_fds && nout ? (ngot < *nout ? ngot : *nout) : 0;
    for (int i = 0; i < keep; i++)
        out_fds[i] = got[i];
    close_all(got + keep, ngot - keep);
    if (nout)
        *nout = keep;
    *resp = out;
    return 0;
}

/* A call whose answer must be of kind `want` and carry exactly `want_fds` descriptors. */
static int call(struct fy_ctl *c, Ferry__Request *req, const int *fds, int nfds, Ferry__Response__OpCase want,
                int *out_fd, Ferry__ControlOut **resp, struct fy_err *e)
{
    int n = out_fd ? 1 : 0;
    Ferry__ControlOut *out;
    if (fy_ctl_call(c, req, fds, nfds, &out, out_fd, &n, e) < 0)
        return -1;
    if (out->response->op_case != want || (out_fd && n != 1)) {
        if (out_fd && n == 1)
            fy_close(out_fd);
        ferry__control_out__free_unpacked(out, NULL);
        return fy_fail(e, FY_ECORRUPT, "ferry-hv gave an answer of the wrong kind");
    }
    if (resp)
        *resp = out;
    else
        ferry__control_out__free_unpacked(out, NULL);
    return 0;
}

#define REQUEST(req, field, FIELD, Message, init)                                                            \
    Message body = init;                                                                                     \
    Ferry__Request req = FERRY__REQUEST__INIT;                                                               \
    (req).op_case = FERRY__REQUEST__OP_##FIELD;                                                              \
    (req).field = &body

int fy_ctl_status(struct fy_ctl *c, Ferry__ControlOut **resp, struct fy_err *e)
{
    REQUEST(req, status, STATUS, Ferry__StatusRequest, FERRY__STATUS_REQUEST__INIT);
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_STATUS, NULL, resp, e);
}

int fy_ctl_describe(struct fy_ctl *c, Ferry__ControlOut **resp, struct fy_err *e)
{
    REQUEST(req, describe, DESCRIBE, Ferry__DescribeRequest, FERRY__DESCRIBE_REQUEST__INIT);
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_DESCRIBE, NULL, resp, e);
}

int fy_ctl_memory(struct fy_ctl *c, bool writable, int *fd, uint64_t *bytes, bool *large, struct fy_err *e)
{
    REQUEST(req, memory, MEMORY, Ferry__MemoryRequest, FERRY__MEMORY_REQUEST__INIT);
    body.writable = writable;
    Ferry__ControlOut *out;
    if (call(c, &req, NULL, 0, FERRY__RESPONSE__OP_MEMORY, fd, &out, e) < 0)
        return -1;
    *bytes = out->response->memory->memfd_bytes;
    *large = out->response->memory->large_pages;
    ferry__control_out__free_unpacked(out, NULL);
    return 0;
}

int fy_ctl_pause(struct fy_ctl *c, uint64_t *pause_ns, struct fy_err *e)
{
    REQUEST(req, pause, PAUSE, Ferry__PauseRequest, FERRY__PAUSE_REQUEST__INIT);
    Ferry__ControlOut *out;
    if (call(c, &req, NULL, 0, FERRY__RESPONSE__OP_PAUSE, NULL, &out, e) < 0)
        return -1;
    if (pause_ns)
        *pause_ns = out->response->pause->pause_ns;
    ferry__control_out__free_unpacked(out, NULL);
    return 0;
}

int fy_ctl_pause_keep(struct fy_ctl *c, struct fy_err *e)
{
    REQUEST(req, pause, PAUSE, Ferry__PauseRequest, FERRY__PAUSE_REQUEST__INIT);
    body.keep = true;
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_PAUSE, NULL, NULL, e);
}

int fy_ctl_resume(struct fy_ctl *c, struct fy_err *e)
{
    REQUEST(req, resume, RESUME, Ferry__ResumeRequest, FERRY__RESUME_REQUEST__INIT);
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_RESUME, NULL, NULL, e);
}

int fy_ctl_tracker_open(struct fy_ctl *c, const char *purpose, bool start_all, uint32_t *tracker,
                        uint64_t *pages, int *bitmap_fd, struct fy_err *e)
{
    REQUEST(req, tracker_open, TRACKER_OPEN, Ferry__TrackerOpenRequest, FERRY__TRACKER_OPEN_REQUEST__INIT);
    body.purpose = (char *)(uintptr_t)purpose;
    body.start_all = start_all;
    Ferry__ControlOut *out;
    if (call(c, &req, NULL, 0, FERRY__RESPONSE__OP_TRACKER_OPEN, bitmap_fd, &out, e) < 0)
        return -1;
    *tracker = out->response->tracker_open->tracker;
    *pages = out->response->tracker_open->pages;
    ferry__control_out__free_unpacked(out, NULL);
    return 0;
}

int fy_ctl_tracker_take(struct fy_ctl *c, uint32_t tracker, uint64_t first, uint64_t count, bool refresh,
                        uint64_t *dirty, uint64_t *remaining, struct fy_err *e)
{
    REQUEST(req, tracker_take, TRACKER_TAKE, Ferry__TrackerTakeRequest, FERRY__TRACKER_TAKE_REQUEST__INIT);
    body.tracker = tracker;
    body.first = first;
    body.count = count;
    body.refresh = refresh;
    Ferry__ControlOut *out;
    if (call(c, &req, NULL, 0, FERRY__RESPONSE__OP_TRACKER_TAKE, NULL, &out, e) < 0)
        return -1;
    if (dirty)
        *dirty = out->response->tracker_take->dirty;
    if (remaining)
        *remaining = out->response->tracker_take->remaining;
    ferry__control_out__free_unpacked(out, NULL);
    return 0;
}

int fy_ctl_tracker_done(struct fy_ctl *c, uint32_t tracker, struct fy_err *e)
{
    REQUEST(req, tracker_done, TRACKER_DONE, Ferry__TrackerDoneRequest, FERRY__TRACKER_DONE_REQUEST__INIT);
    body.tracker = tracker;
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_EMPTY, NULL, NULL, e);
}

int fy_ctl_tracker_count(struct fy_ctl *c, uint32_t tracker, bool refresh, uint64_t *dirty, struct fy_err *e)
{
    REQUEST(req, tracker_count, TRACKER_COUNT, Ferry__TrackerCountRequest,
            FERRY__TRACKER_COUNT_REQUEST__INIT);
    body.tracker = tracker;
    body.refresh = refresh;
    Ferry__ControlOut *out;
    if (call(c, &req, NULL, 0, FERRY__RESPONSE__OP_TRACKER_COUNT, NULL, &out, e) < 0)
        return -1;
    *dirty = out->response->tracker_count->dirty;
    ferry__control_out__free_unpacked(out, NULL);
    return 0;
}

int fy_ctl_tracker_close(struct fy_ctl *c, uint32_t tracker, struct fy_err *e)
{
    REQUEST(req, tracker_close, TRACKER_CLOSE, Ferry__TrackerCloseRequest,
            FERRY__TRACKER_CLOSE_REQUEST__INIT);
    body.tracker = tracker;
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_EMPTY, NULL, NULL, e);
}

int fy_ctl_save_state(struct fy_ctl *c, int *fd, uint64_t *bytes, struct fy_err *e)
{
    REQUEST(req, save_state, SAVE_STATE, Ferry__SaveStateRequest, FERRY__SAVE_STATE_REQUEST__INIT);
    Ferry__ControlOut *out;
    if (call(c, &req, NULL, 0, FERRY__RESPONSE__OP_SAVE_STATE, fd, &out, e) < 0)
        return -1;
    *bytes = out->response->save_state->bytes;
    ferry__control_out__free_unpacked(out, NULL);
    return 0;
}

int fy_ctl_load_state(struct fy_ctl *c, int fd, uint64_t bytes, char *warning, struct fy_err *e)
{
    REQUEST(req, load_state, LOAD_STATE, Ferry__LoadStateRequest, FERRY__LOAD_STATE_REQUEST__INIT);
    body.bytes = bytes;
    Ferry__ControlOut *out;
    if (call(c, &req, &fd, 1, FERRY__RESPONSE__OP_LOAD_STATE, NULL, &out, e) < 0)
        return -1;
    if (warning) {
        size_t n = strnlen(out->response->load_state->warning, FY_ERR_TEXT - 1);
        memcpy(warning, out->response->load_state->warning, n);
        warning[n] = 0;
    }
    ferry__control_out__free_unpacked(out, NULL);
    return 0;
}

int fy_ctl_write_back(struct fy_ctl *c, struct fy_err *e)
{
    REQUEST(req, write_back, WRITE_BACK, Ferry__WriteBackRequest, FERRY__WRITE_BACK_REQUEST__INIT);
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_EMPTY, NULL, NULL, e);
}

int fy_ctl_frames(struct fy_ctl *c, Ferry__ControlOut **resp, struct fy_err *e)
{
    REQUEST(req, frames, FRAMES, Ferry__FramesRequest, FERRY__FRAMES_REQUEST__INIT);
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_FRAMES, NULL, resp, e);
}

int fy_ctl_late_frames(struct fy_ctl *c, const uint8_t *frames, size_t len, struct fy_err *e)
{
    REQUEST(req, late_frames, LATE_FRAMES, Ferry__LateFramesRequest, FERRY__LATE_FRAMES_REQUEST__INIT);
    body.frames = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)frames, .len = len};
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_EMPTY, NULL, NULL, e);
}

int fy_ctl_latch(struct fy_ctl *c, const uint8_t id[16], struct fy_err *e)
{
    REQUEST(req, latch, LATCH, Ferry__LatchRequest, FERRY__LATCH_REQUEST__INIT);
    body.handover_id = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)id, .len = 16};
    return call(c, &req, NULL, 0, FERRY__RESPONSE__OP_EMPTY, NULL, NULL, e);
}
