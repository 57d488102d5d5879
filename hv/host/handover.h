// SPDX-License-Identifier: Apache-2.0
/* The hand-over of one guest between two hosts, as the daemons decide it: two pure state machines without
 * I/O. The driver (hv/host/handjob.c) feeds events and carries out the actions that come back, in order. A
 * table of what happens when either party ends at each point is in docs/spec/stream.md;
 * tests/unit/test_handover.c explores all of it.
 *
 * The promise: a guest never runs on two hosts, and while its owner's hypervisor lives and both daemons are
 * up it ends running on exactly one. */
#ifndef FERRY_HOST_HANDOVER_H
#define FERRY_HOST_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>

/* What the journal says of an ID. Stable numbers: they are on disk. */
enum fy_ho_state {
    FY_HO_NONE = 0,
    FY_HO_HANDING = 1,  /* source: the worker may pause, latch and commit */
    FY_HO_DONE = 2,     /* source: the guest is the target's */
    FY_HO_ABORTED = 3,  /* source: the guest stays */
    FY_HO_INCOMING = 4, /* target: a hypervisor may be there; it may have run only if it was told to */
    FY_HO_RAN = 5,      /* target: the guest has run here and is ours */
    FY_HO_ABORT = 6,    /* target: it never ran here under this ID and never will */
};

/* Events of both sides. W: worker, H: hypervisor, J: journal, P: peer, O: operator. */
enum fy_ho_event {
    /* source */
    FY_HE_ASK_HANDING, /* W: may I hand over? */
    FY_HE_HANDED_OVER, /* W: the target runs it */
    FY_HE_H_LATCHED,   /* H says: latched with this ID */
    FY_HE_H_FREE,      /* H says: not latched with this ID */
    FY_HE_P_RAN,       /* P answers 1 */
    FY_HE_P_NEVER,     /* P answers 2 */
    FY_HE_P_LATER,     /* P answers 3 */
    FY_HE_P_AWAY,      /* P cannot be reached */
    FY_HE_O_HERE,      /* O: run it here */
    FY_HE_O_GONE,      /* O: it is gone */
    /* target */
    FY_HE_CREATE,   /* W: make a hypervisor */
    FY_HE_H_UP,     /* H is ready */
    FY_HE_RUN,      /* W: COMMIT came: run it */
    FY_HE_H_RUNS,   /* H has entered the guest under this ID */
    FY_HE_H_CANNOT, /* H refuses to run it */
    FY_HE_ABORT,    /* W: no COMMIT came */
    FY_HE_LOG_RAN,  /* the run log has an entry under this ID */
    FY_HE_LOG_NONE, /* it has none */
    FY_HE_QUERY,    /* P asks what became of the ID */
    FY_HE_ABANDON,  /* P asks, and its worker is dead: end it if it has not run */
    FY_HE_FOUND,    /* after a restart: H is alive and has not run */
    /* both */
    FY_HE_WRITTEN,      /* J: the write that was asked for is durable */
    FY_HE_WRITE_FAILED, /* J: it failed */
    FY_HE_W_GONE,       /* W has ended: it will send nothing more, and its process is dead */
    FY_HE_H_GONE,       /* H's process is dead */
    FY_HE_TIMER,        /* the timer that was asked for */
};

/* Actions, as bits; the driver carries them out in the order of the bits. */
#define FY_HA_WRITE (1u << 0)        /* write machine.want to the journal; answer WRITTEN or WRITE_FAILED */
#define FY_HA_KILL_WORKER (1u << 1)  /* end the worker; W_GONE follows */
#define FY_HA_KILL_HV (1u << 2)      /* SIGKILL; H_GONE follows */
#define FY_HA_SPAWN (1u << 3)        /* make the hypervisor: H_UP or H_GONE follows */
#define FY_HA_HV_RUN (1u << 4)       /* RunRequest(ID): H_RUNS, H_CANNOT or H_GONE follows */
#define FY_HA_HV_STATUS (1u << 5)    /* ask H: H_LATCHED, H_FREE or H_GONE follows */
#define FY_HA_HV_HERE (1u << 6)      /* resolve(ID, run_here) */
#define FY_HA_HV_LEAVE (1u << 7)     /* resolve(ID, gone): the process ends */
#define FY_HA_CHECK_LOG (1u << 8)    /* LOG_RAN or LOG_NONE follows */
#define FY_HA_ASK_PEER (1u << 9)     /* P_RAN, P_NEVER, P_LATER or P_AWAY follows */
#define FY_HA_TIMER (1u << 10)       /* TIMER follows after a back-off */
#define FY_HA_ANSWER_OK (1u << 11)   /* the worker's open call succeeds */
#define FY_HA_ANSWER_NO (1u << 12)   /* the worker's open call fails */
#define FY_HA_QUERY_RAN (1u << 13)   /* answer P: 1 */
#define FY_HA_QUERY_NEVER (1u << 14) /* answer P: 2 */
#define FY_HA_QUERY_LATER (1u << 15) /* answer P: 3 */
#define FY_HA_UNCERTAIN (1u << 16)   /* report: the peer's daemon cannot be reached */
#define FY_HA_HERE (1u << 17)        /* report: the guest is ours */
#define FY_HA_AWAY (1u << 18)        /* report: the guest is the other side's (target: it never was ours) */

enum fy_ho_step {
    FY_HS_IDLE = 0,
    FY_HS_WRITING, /* the first record (HANDING or INCOMING) is being written */
    FY_HS_OPEN,    /* source: the worker holds the pen. target: the hypervisor waits for COMMIT */
    FY_HS_PROBE,   /* source: asking our hypervisor */
    FY_HS_ASK,     /* source: asking the peer */
    FY_HS_SPAWN,   /* target: the hypervisor is being made */
    FY_HS_LOOK,    /* target: restarted, finding out whether it has run */
    FY_HS_RUN,     /* target: told the hypervisor to run */
    FY_HS_KILL,    /* target: ending the hypervisor */
    FY_HS_LOG,     /* target: looking into the run log */
    FY_HS_LAST,    /* the last record (DONE, ABORTED, RAN, ABORT) is being written */
    FY_HS_END,
};

enum fy_ho_call { FY_HC_NONE = 0, FY_HC_GO, FY_HC_ABORT };

/* Plain values; a copy is a whole snapshot. Set to zero, or to fy_ho_restart(), before the first event. */
struct fy_ho {
    uint8_t journal; /* enum fy_ho_state: what is durable */
    uint8_t want;    /* what is being written */
    uint8_t step;    /* enum fy_ho_step */
    bool worker;     /* a worker of this ID may be alive */
    bool hv;         /* its hypervisor may be alive */
    uint8_t call;    /* enum fy_ho_call: what the worker awaits an answer to */
    bool query;      /* the peer awaits an answer */
    bool settled;    /* the outcome was carried out and reported; only its record is missing */
    bool latch_seen; /* source: our hypervisor was latched when its worker had ended */
};

/* One event; returns the actions. Any event in any step is allowed. */
uint32_t fy_ho_source(struct fy_ho *h, enum fy_ho_event ev);
uint32_t fy_ho_target(struct fy_ho *h, enum fy_ho_event ev);

/* The machine as a restarted daemon finds it in its journal; hv: the hypervisor answers. The driver then ends
 * the old worker and gives W_GONE (source), or tells what the hypervisor says: H_RUNS, FOUND or H_GONE
 * (target). */
struct fy_ho fy_ho_restart(enum fy_ho_state journal, bool hv);

const char *fy_ho_state_name(unsigned state);

#endif
