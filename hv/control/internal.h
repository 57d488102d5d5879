// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_CONTROL_INTERNAL_H
#define FERRY_CONTROL_INTERNAL_H

#include "hv/base/msg.h"
#include "hv/control/server.h"
#include "hv/dev/platform.h"
#include "hv/dev/virtio_devices.h"
#include "proto/control.pb-c.h"

#define FY_CONNECTIONS_MAX 64
#define FY_TRACKERS_MAX 16 /* a connection */
#define FY_VIEWERS_MAX 16

struct fy_conn_tracker {
    uint32_t id; /* 0: free */
    struct fy_tracker *t;
};

struct fy_conn {
    struct fy_server *s;
    struct fy_conn *next;
    int sock;
    struct fy_watch *watch;
    struct fy_lease lease;
    bool subscribed;
    /* A run_to that is not answered yet. */
    bool waits;
    uint64_t wait_id, wait_count;
    bool dead; /* to be closed once its request is done with */
    struct fy_conn_tracker trackers[FY_TRACKERS_MAX];
};

struct fy_viewer {
    struct fy_viewer *next;
    struct fy_server *s;
    int sock;
    struct fy_watch *watch; /* NULL while the guest takes no input */
    /* under the console lock: what it has not read yet */
    uint8_t *backlog;
    size_t kept, room;
    struct fy_watch *drain; /* the main thread's: waits for room in the socket */
};

struct fy_server {
    struct fy_loop *loop;
    struct fy_life *life;
    struct fy_machine *m;
    int listen_fd;
    struct fy_watch *listen_watch;
    struct fy_conn *conns;
    unsigned conn_count;
    uint32_t next_tracker;
    uint8_t run_id[16];
    char isolation[64];
    struct fy_viewer *viewers; /* changed on the main thread with the console lock held */
    unsigned viewer_count;
    bool room_posted, backlog_posted; /* atomic */
    uint8_t in[FY_MSG_MAX], out[FY_MSG_MAX];
};

/* What an op gives back: its reply lives in `reply`, descriptors stay the op's unless close_fd. */
struct fy_answer {
    Ferry__Response resp;
    union {
        Ferry__HelloReply hello;
        Ferry__StatusReply status;
        Ferry__DescribeReply describe;
        Ferry__MemoryReply memory;
        Ferry__PauseReply pause;
        Ferry__ResumeReply resume;
        Ferry__TrackerOpenReply tracker_open;
        Ferry__TrackerTakeReply tracker_take;
        Ferry__TrackerCountReply tracker_count;
        Ferry__SaveStateReply save_state;
        Ferry__LoadStateReply load_state;
        Ferry__RunReply run;
        Ferry__Empty empty;
        Ferry__CountReply count;
        Ferry__DigestReply digest;
        Ferry__ConsoleAttachReply console_attach;
        Ferry__BalloonReply balloon;
        Ferry__StatsReply stats;
        Ferry__GenerationReply generation;
        Ferry__FramesReply frames;
    } u;
    uint8_t generation_id[16];
    uint64_t balloon_stats[FY_BALLOON_STATS];
    Ferry__DeviceStats devices[FY_DEVICES_MAX], *device_list[FY_DEVICES_MAX];
    Ferry__SlotInfo slots[FY_SLOTS_MAX];
    Ferry__SlotInfo *slot_list[FY_SLOTS_MAX];
    uint64_t vcpu_dirty[64];
    Ferry__NicStatus nics[FY_NICS_MAX];
    Ferry__DiskStatus disks[FY_DISKS_LIMIT], *disk_list[FY_DISKS_LIMIT];
    struct fy_machine_disk disk_status[FY_DISKS_LIMIT];
    Ferry__NicStatus *nic_list[FY_NICS_MAX];
    char engine[64];
    int fd;        /* to send, -1: none */
    bool close_fd; /* after sending */
    bool later;    /* the connection waits for its answer */
};

/* ops.c, ops_tracker.c: carry out a request. fds[0..nfds) came with it and stay the caller's. */
int fy_op(struct fy_conn *c, const Ferry__Request *req, const int *fds, int nfds, struct fy_answer *a,
          struct fy_err *e);
int fy_op_tracker(struct fy_conn *c, const Ferry__Request *req, struct fy_answer *a, struct fy_err *e);
/* ops_icount.c. fy_op_reached: answer the run_to that c waits for, if it is to be answered now; 1: a is
 * filled, -1: with an error, 0: not yet. */
int fy_op_icount(struct fy_conn *c, const Ferry__Request *req, struct fy_answer *a, struct fy_err *e);
int fy_op_reached(struct fy_conn *c, struct fy_answer *a, struct fy_err *e);
/* ops_devices.c */
int fy_op_vsock_answer(struct fy_server *s, uint64_t id, const int *fds, int nfds, struct fy_answer *a,
                       struct fy_err *e);
int fy_op_nic(struct fy_server *s, const Ferry__NicRequest *op, const int *fds, int nfds, struct fy_err *e);
void fy_status_nics(struct fy_server *s, struct fy_answer *a, Ferry__StatusReply *r);
void fy_status_disks(struct fy_server *s, struct fy_answer *a, Ferry__StatusReply *r);
int fy_op_disk(struct fy_server *s, const Ferry__DiskRequest *op, const int *fds, int nfds, struct fy_err *e);
int fy_op_stats(struct fy_server *s, struct fy_answer *a, struct fy_err *e);
int fy_op_frames(struct fy_server *s, struct fy_answer *a, struct fy_err *e);
int fy_op_late_frames(struct fy_server *s, const Ferry__LateFramesRequest *op, struct fy_err *e);
int fy_op_generation(struct fy_server *s, bool change, struct fy_answer *a, struct fy_err *e);
int fy_op_balloon(struct fy_server *s, const Ferry__BalloonRequest *op, struct fy_answer *a,
                  struct fy_err *e);
void fy_trackers_close(struct fy_conn *c);

/* console.c */
int fy_console_attach(struct fy_server *s, const Ferry__ConsoleAttachRequest *op, struct fy_answer *a,
                      struct fy_err *e);
void fy_console_close_all(struct fy_server *s);

void fy_answer_empty(struct fy_answer *a);

#endif
