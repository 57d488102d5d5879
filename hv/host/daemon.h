// SPDX-License-Identifier: Apache-2.0
/* The daemon's objects and what its files offer each other. Everything here lives on the loop's thread. */
#ifndef FERRY_HOST_DAEMON_H
#define FERRY_HOST_DAEMON_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/host/cgroup.h"
#include "hv/host/chan.h"
#include "hv/host/handover.h"
#include "hv/host/hvlink.h"
#include "hv/host/inventory.h"
#include "proto/api.pb-c.h"
#include "proto/job.pb-c.h"

#define FYD_DEFAULT_ROOT "/var/lib/ferry"
#define FYD_DEFAULT_LISTEN "0.0.0.0:4747"
#define FYD_API_VERSION 1
#define FYD_NICS_MAX 12

/* Stable numbers: they are in the inventory. */
enum fyd_gstate {
    FYD_G_STARTING = 1,
    FYD_G_RUNNING,
    FYD_G_PAUSED,
    FYD_G_INCOMING,
    FYD_G_HANDING,
    FYD_G_UNCERTAIN,
    FYD_G_STOPPED,
    FYD_G_CRASHED,
    FYD_G_MOVED,
};

struct fyd;
struct fyd_guest;
struct fyd_usernet;
struct fyd_blk;
struct fyd_server;
struct fyd_job;
struct fyd_ho;
struct fyd_client;

/* Told once when a launch is over; err NULL: the hypervisor serves. */
typedef void (*fyd_launch_cb)(void *arg, const struct fy_err *err);

/* Told once when the guest's hypervisor has ended (or there is none). */
struct fyd_end_wait {
    struct fyd_end_wait *next;
    void (*cb)(void *arg, struct fyd_guest *g);
    void *arg;
};

struct fyd_guest {
    struct fyd_guest *next;
    struct fyd *d;
    char name[FYD_NAME_MAX];
    uint8_t uuid[FYD_ID_LEN];
    uint8_t run_id[FYD_ID_LEN];
    enum fyd_gstate state;
    uint64_t revision;
    uint64_t changed_ns;
    Ferry__Machine *machine; /* owned; NULL where it was never learned */
    uint64_t promised;       /* until then: hv/host/promise.h */
    unsigned promised_vcpus;
    char report[FYD_REPORT_MAX];
    char moved_to[FYD_NAME_MAX];
    char warning[256];
    char engine[64];
    char isolation[64];
    struct fyd_limits limits;
    int32_t exit_status;
    uint8_t handover[FYD_ID_LEN];
    /* of the last status */
    uint64_t running_ns, vcpu_cpu_ns, resident;
    /* its process */
    pid_t pid;
    int pidfd;
    struct fy_watch *pid_watch;
    struct fyd_hv *link;
    struct fy_watch *end_timer; /* kills what does not end by itself */
    bool end_asked;             /* by an operator or by the hand-over: its end is no crash */
    bool ended_word;            /* its end was reported by itself */
    /* a launch under way */
    int ready_sock;
    struct fy_watch *ready_watch;
    fyd_launch_cb launched;
    void *launch_arg;
    struct fy_err launch_err;
    bool incoming;
    uint64_t prealloc_ns;
    bool launch_done;
    bool forget;    /* free it once its process has ended and its folder is gone */
    unsigned posts; /* calls posted to the loop that name it */
    struct fyd_end_wait *waits;
    struct fyd_job *job;
    struct fyd_usernet *usernet[FYD_NICS_MAX]; /* by card; NULL: it has none */
    Ferry__NicStatus *nics[FYD_NICS_MAX];      /* of the last status; owned */
    unsigned n_nics;
    /* disks whose ferry-blk has ended, by bit, and when they get another */
    uint32_t blk_again;
    unsigned blk_again_ms;
    uint64_t blk_again_ns;
    struct fy_watch *blk_timer;
};

struct fyd_host {
    struct fyd_host *next;
    struct inv_host row;
    uint64_t revision;
};

struct fyd_client {
    struct fyd_client *next;
    struct fyd *d;
    struct fyd_chan *chan;
    bool busy;     /* its request is being served */
    bool watching; /* gets every change */
    bool gone;
    bool drop;           /* to be closed from the loop */
    unsigned refs;       /* callbacks under way that name it */
    struct fyd_job *job; /* whose messages it gets */
    bool to_the_end;     /* also over an uncertain time */
    /* A request of the daemon's own: its answers go here, and `gone` is set from the start. */
    void (*sink)(struct fyd_client *c, const Ferry__ApiReply *r);
    char sink_name[FYD_NAME_MAX];
};

struct fyd_job {
    struct fyd_job *next;
    struct fyd *d;
    uint8_t id[FYD_ID_LEN];
    char id_text[2 * FYD_ID_LEN + 1];
    Ferry__JobKind kind;
    char guest_name[FYD_NAME_MAX];
    struct fyd_guest *guest;
    char peer[FYD_NAME_MAX];
    char state[16];
    uint64_t started_ns;   /* CLOCK_MONOTONIC */
    uint64_t started_real; /* CLOCK_REALTIME */
    uint64_t revision;
    Ferry__JobProgress *progress; /* owned */
    Ferry__JobReport *report;     /* owned */
    /* its worker */
    struct fyd_chan *chan;
    pid_t pid;
    uint64_t pid_start;
    int pidfd;
    struct fy_watch *pid_watch;
    struct fy_watch *timer; /* proof, or the end after a cancel */
    bool proved;
    bool worker_ended;
    bool restarted; /* was under way when the daemon before us ended */
    bool finished;  /* state and report are final */
    bool switching;
    bool cancel_asked;
    char cancel_why[128];
    unsigned channels; /* of JoinChannel; 0: not yet told */
    uint64_t call_id;  /* the worker's open call */
    Ferry__WorkerOut__KindCase call;
    bool run_paused;
    uint64_t switched_ns; /* HandedOver came */
    struct fyd_ho *ho;
    Ferry__JobReport *worker_report; /* owned: its last word, until the hand-over is settled */
    /* query and pairing */
    struct fyd_ho *query_of;
    bool query_answered;
    struct fyd_client *pair_client;
    uint8_t pair_digest[32];
    char paired_host[FYD_NAME_MAX];
    bool pair_pinned;
    bool counted; /* among the unproved */
    /* a console elsewhere */
    struct fyd_client *console_client; /* waits for it */
    int console_fd;                    /* the viewer's end, until then; -1 */
};

#define FYD_DISKS_MAX 12
#define FYD_DISK_FOLDERS_MAX 8
#define FYD_DEFAULT_DISKS "/var/lib/ferry/images"

struct fyd {
    struct fy_loop *loop;
    char root[PATH_MAX];
    char libexec[PATH_MAX];
    const char *disk_folders[FYD_DISK_FOLDERS_MAX]; /* and servers; the caller's */
    unsigned disk_folder_count;
    char engine[8];                 /* for incoming guests; "": as their descriptions say */
    double memory_ratio, cpu_ratio; /* hv/host/promise.h */
    char listen[FYD_ADDRESS_MAX];
    int rootfd;
    int lockfd;
    int runlog;
    char boot_id[40];
    struct fyd_inv *inv;
    uint64_t revision;
    struct fyd_guest *guests;
    struct fyd_job *jobs;
    struct fyd_move_wait *move_waits;
    struct fyd_host *hosts;
    struct fyd_client *clients;
    struct fyd_usernet *usernets;
    struct fyd_blk *blks;
    struct fyd_server *servers; /* hv/host/qcow2.c */
    struct fyd_ho *handovers;
    struct fyd_def *defs; /* hv/host/define.h */
    int api_sock;
    struct fy_watch *api_watch;
    int peer_sock;
    struct fy_watch *peer_watch;
    unsigned prefaces; /* accepted connections whose preface is not read */
    unsigned unproved; /* workers whose peer has not proved itself */
    struct fy_watch *sigterm, *sigint;
    struct fy_watch *sweep; /* hourly: old entries */
    struct {
        bool open;
        uint8_t secret[16];
        uint64_t expires_ns;
        struct fy_watch *timer;
    } invite;
};

/* daemon.c */
struct fyd_options {
    const char *root;
    const char *listen;
    const char *libexec; /* NULL: next to ferryd */
    /* Folders that incoming guests' disks may be in; none: the default one. They outlive the daemon. */
    const char *disk_folders[FYD_DISK_FOLDERS_MAX];
    unsigned disk_folder_count;
    const char *engine;             /* for incoming guests; NULL or "auto": as the description says */
    double memory_ratio, cpu_ratio; /* hv/host/promise.h; 0: the defaults */
};
/* Open the root, read the inventory, find guests again, listen. NULL with the cause. */
struct fyd *fyd_open(const struct fyd_options *o, struct fy_loop *loop, struct fy_err *e);
void fyd_close(struct fyd *d);
const char *fyd_program(const struct fyd *d, const char *name, char out[PATH_MAX]);
bool fyd_id_is_zero(const uint8_t id[FYD_ID_LEN]);
/* A name that is safe as a file name and in a table: [A-Za-z0-9][A-Za-z0-9._-]{0,62}. */
bool fyd_name_ok(const char *name);
/* Copy with truncation, always terminated. */
void fyd_copy(char *out, size_t room, const char *text);

/* guests.c, launch.c */
struct fyd_launch {
    const Ferry__Machine *machine;
    int kernel_fd, initrd_fd, firmware_fd; /* -1: none; stay the caller's */
    const int *disk_fds;                   /* of machine->disks, stay the caller's; NULL: none, or incoming */
    bool incoming, paused;
};
const char *fyd_gstate_name(enum fyd_gstate s);
bool fyd_guest_active(const struct fyd_guest *g); /* it has, or may have, a hypervisor */
struct fyd_guest *fyd_guest_by_name(struct fyd *d, const char *name);
struct fyd_guest *fyd_guest_by_uuid(struct fyd *d, const uint8_t uuid[FYD_ID_LEN]);
struct fyd_guest *fyd_guest_new(struct fyd *d, const char *name, const uint8_t uuid[FYD_ID_LEN],
                                enum fyd_gstate state, struct fy_err *e);
/* Remove from the inventory with its folder; it must not be active. */
void fyd_guest_remove(struct fyd_guest *g);
void fyd_guest_set_state(struct fyd_guest *g, enum fyd_gstate state);
void fyd_guest_persist(struct fyd_guest *g, fyd_inv_cb cb, void *arg);
/* A warning about one of its devices, in place of an earlier one about the same; text "": none any more. */
void fyd_guest_warn_of(struct fyd_guest *g, const char *device, const char *text);
void fyd_guest_path(const struct fyd_guest *g, const char *file, char out[PATH_MAX]);
/* Make folder, memory, sockets and process; cb when it serves, or has failed and is gone. */
void fyd_guest_launch(struct fyd_guest *g, const struct fyd_launch *l, fyd_launch_cb cb, void *arg);
/* After a restart: connect to its socket and learn whether it is the same. cb: err NULL when it is ours. */
void fyd_guest_find(struct fyd_guest *g, fyd_launch_cb cb, void *arg);
/* Ask its hypervisor for the state and follow it. */
void fyd_guest_ask_status(struct fyd_guest *g);
/* SIGKILL in `ms`, unless it has ended by then. */
void fyd_guest_end_soon(struct fyd_guest *g, unsigned ms);
/* SIGKILL. */
void fyd_guest_kill(struct fyd_guest *g);
/* cb once when no hypervisor of this guest is left; at once (later in the loop) when there is none. */
void fyd_guest_on_end(struct fyd_guest *g, void (*cb)(void *arg, struct fyd_guest *g), void *arg);
void fyd_guest_cancel_end(struct fyd_guest *g, void *arg);
/* Another connection to its control socket, or -1. */
int fyd_guest_connect(struct fyd_guest *g, struct fy_err *e);
/* True when the run log has an `enter` under this hand-over ID. */
bool fyd_runlog_entered(struct fyd *d, const uint8_t id[FYD_ID_LEN]);
/* Read memory that the kernel calls available, less what must stay free. */
uint64_t fyd_memory_available(bool hugepages);
/* Bytes free on the disk under the root; below the margin nothing new is taken in. */
uint64_t fyd_disk_available(struct fyd *d);
#define FYD_DISK_MARGIN (1024u * 1024)
/* ferry-hv --check: cb with every reason, a line each; "" when there is none. */
void fyd_check_machine(struct fyd *d, const Ferry__Machine *m, void (*cb)(void *arg, const char *reasons),
                       void *arg);

/* program.c: run a program to its end, its output collected. */
struct fyd_run;
typedef void (*fyd_run_cb)(void *arg, const struct fy_err *err, bool clean, const char *out, size_t len);
/* cb comes exactly once, from the loop: err when it could not be started or did not end in time. Descriptors
 * become 3, 4,
 * ... and stay the caller's; clean: it exited with status 0. At most 1 MiB of its stdout is kept. */
void fyd_run_program(struct fyd *d, const char *program, const char *const *argv, const int *fds, int nfds,
                     unsigned timeout_ms, fyd_run_cb cb, void *arg);

/* handjob.c: the driver of the hand-over machines */
struct fyd_ho {
    struct fyd_ho *next;
    struct fyd *d;
    uint8_t id[FYD_ID_LEN];
    struct fy_ho m;
    bool source;
    bool restarted;
    bool by_hand; /* an operator has resolved it */
    uint8_t uuid[FYD_ID_LEN];
    char guest_name[FYD_NAME_MAX];
    char peer[FYD_NAME_MAX];
    char boot_id[40];
    uint32_t worker_pid;
    uint64_t worker_start;
    int old_pidfd; /* a worker of the daemon before us, being ended */
    struct fy_watch *old_watch;
    struct fyd_guest *guest;
    struct fyd_job *job;
    struct fyd_job *asker;     /* a JOB_QUERY worker under way */
    struct fyd_job *answer_to; /* a JOB_ANSWER worker that awaits an answer */
    Ferry__Machine *machine;   /* target: owned, for the spawn */
    struct fy_watch *timer;
    struct fy_watch *again; /* a second look at a found-again hypervisor */
    unsigned backoff_ms;
    unsigned asked;
    uint64_t resume_ns, first_run_ns;
    uint64_t uncertain_since;
    struct fy_err why; /* why the last step failed, for the worker's answer */
    bool feeding;
    uint8_t queue[16];
    unsigned queued;
    bool status_again;
};
struct fyd_ho *fyd_ho_find(struct fyd *d, const uint8_t id[FYD_ID_LEN]);
struct fyd_ho *fyd_ho_new(struct fyd *d, const uint8_t id[FYD_ID_LEN], bool source);
void fyd_ho_feed(struct fyd_ho *ho, enum fy_ho_event ev);
/* Take up what the journal says; called for every row after the guests were found or lost. */
void fyd_ho_resume(struct fyd_ho *ho);
void fyd_ho_load(struct fyd *d, const struct inv_handover *row);
void fyd_ho_guest_state(struct fyd_guest *g, Ferry__GuestState state);
void fyd_ho_free_all(struct fyd *d);

/* jobs.c */
struct fyd_job *fyd_job_find(struct fyd *d, const uint8_t id[FYD_ID_LEN]);
struct fyd_job *fyd_job_by_text(struct fyd *d, const char *text, struct fy_err *e);
struct fyd_job *fyd_job_new(struct fyd *d, Ferry__JobKind kind, const uint8_t id[FYD_ID_LEN]);
/* Start its worker. fds: what JobStart carries after key and certificate. */
int fyd_job_spawn(struct fyd_job *job, Ferry__JobStart *start, const int *fds, int nfds, struct fy_err *e);
void fyd_job_answer(struct fyd_job *job, const struct fy_err *err, Ferry__WorkerIn *in, const int *fds,
                    int nfds);
void fyd_job_cancel(struct fyd_job *job, const char *why);
void fyd_job_fail(struct fyd_job *job, const char *state, int code, const char *text);
void fyd_job_settle(struct fyd_job *job);
void fyd_job_kill(struct fyd_job *job);
int fyd_job_set(struct fyd_job *job, const Ferry__SetJob *set, struct fy_err *e);
int fyd_job_channel(struct fyd_job *job, unsigned channel, int sock, struct fy_err *e);
void fyd_job_remove(struct fyd_job *job);
void fyd_jobs_free_all(struct fyd *d);
/* Jobs of the daemon before us: join them with their hand-overs, end those that are over. */
void fyd_jobs_resume(struct fyd *d);
void fyd_job_load(struct fyd *d, const struct inv_job *row);
/* The request `migrate`: begins the move, or first waits, without blocking and not for long, for the end of
 * the job by which the guest has come. */
void fyd_api_migrate(struct fyd_client *c, const Ferry__ApiMigrate *op);
/* A guest's job has ended: those who waited for it go on. */
void fyd_moves_look(struct fyd *d);
void fyd_moves_free_all(struct fyd *d);
/* Begin to move a guest. NULL with the cause. */
struct fyd_job *fyd_migrate(struct fyd *d, const Ferry__ApiMigrate *m, struct fy_err *e);
/* job_calls.c: one message of a worker */
void fyd_job_message(struct fyd_job *job, const Ferry__WorkerOut *out);

/* peers.c */
int fyd_peers_listen(struct fyd *d, struct fy_err *e);
void fyd_peers_close(struct fyd *d);

/* hosts.c */
struct fyd_host *fyd_host_find(struct fyd *d, const char *name);
struct fyd_host *fyd_host_self(struct fyd *d);
void fyd_host_load(struct fyd *d, const struct inv_host *row);
void fyd_hosts_free_all(struct fyd *d);
int fyd_host_pin(struct fyd *d, const char *name, const char *address, const uint8_t sha256[32],
                 fyd_inv_cb cb, void *arg, struct fy_err *e);
void fyd_host_init(struct fyd_client *c, const Ferry__ApiHostInit *op);
void fyd_host_invite(struct fyd_client *c, const Ferry__ApiHostInvite *op);
void fyd_host_join(struct fyd_client *c, const Ferry__ApiHostJoin *op);
void fyd_host_remove(struct fyd_client *c, const Ferry__ApiHostRemove *op);
void fyd_host_list(struct fyd_client *c);
/* The worker reports a proved peer: pin it, then answer the call. */
void fyd_host_paired(struct fyd_job *job, const Ferry__Paired *p);
bool fyd_invite_open(struct fyd *d);
/* Open the key and certificate for a worker: fds[0], fds[1], CLOEXEC. */
int fyd_identity(struct fyd *d, int fds[2], struct fy_err *e);

/* vsock.c */
/* The guest's listening socket, vsock.sock in its folder. -1 on error. */
int fyd_vsock_listen(struct fyd_guest *g, struct fy_err *e);
/* The guest asks for a port of the host: join it to who listens at vsock.sock_PORT in its folder, or refuse.
 */
void fyd_vsock_connect(struct fyd_guest *g, uint32_t port, uint64_t id);

/* limits.c */
void fyd_api_limit(struct fyd_client *c, const Ferry__ApiLimit *op);
/* The guest's process is new: into its cgroup, with its limits. Says in the log what cannot be. */
void fyd_limits_join(struct fyd_guest *g);
void fyd_limits_leave(struct fyd_guest *g);

/* stats.c */
void fyd_api_stats(struct fyd_client *c);

/* doctor.c */
void fyd_doctor(struct fyd_client *c);

/* api.c */
int fyd_api_listen(struct fyd *d, struct fy_err *e);
void fyd_api_close(struct fyd *d);
void fyd_client_hold(struct fyd_client *c);
void fyd_client_release(struct fyd_client *c);
void fyd_reply(struct fyd_client *c, Ferry__ApiReply *r, const int *fds, int nfds);
void fyd_reply_error(struct fyd_client *c, const struct fy_err *err);
void fyd_reply_fail(struct fyd_client *c, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void fyd_reply_done(struct fyd_client *c);
void fyd_reply_text(struct fyd_client *c, const char *text, bool last);
void fyd_reply_guest(struct fyd_client *c, struct fyd_guest *g, bool last);
void fyd_reply_job(struct fyd_client *c, struct fyd_job *job, bool last);
void fyd_reply_host(struct fyd_client *c, struct fyd_host *h, bool last);
/* Push a change to the watchers. removed: the object is about to be freed. */
void fyd_changed_guest(struct fyd_guest *g, bool removed);
void fyd_changed_job(struct fyd_job *job, bool removed);
void fyd_changed_host(struct fyd *d, struct fyd_host *h, bool removed);
/* A job's clients: its progress, and its end. */
void fyd_job_tell(struct fyd_job *job);

/* api_guest.c */
/* The guest by its name, in a state in which its hypervisor answers; else replies and returns NULL. */
struct fyd_guest *fyd_api_live_guest(struct fyd_client *c, const char *name);
void fyd_api_start(struct fyd_client *c, const Ferry__ApiStart *op, int *fds, int nfds);
void fyd_api_status(struct fyd_client *c, const char *name);
void fyd_api_console(struct fyd_client *c, const Ferry__ApiConsole *op);
void fyd_api_pause(struct fyd_client *c, const char *name, bool pause);
void fyd_api_stop(struct fyd_client *c, const Ferry__ApiStop *op);
void fyd_api_wait(struct fyd_client *c, const char *name);
void fyd_api_dirty_rate(struct fyd_client *c, const Ferry__ApiDirtyRate *op);
void fyd_api_nic_rate(struct fyd_client *c, const Ferry__ApiNicRate *op);
void fyd_api_reset(struct fyd_client *c, const char *name);

/* notify.c: sd_notify(3) by hand; does nothing without $NOTIFY_SOCKET. */
void fyd_notify(const char *state);

#endif
