// SPDX-License-Identifier: Apache-2.0
/* Numbered fault points: places where a test makes this process die, fail or wait. FERRY_FAULT in the
 * environment names them, comma separated: "NUMBER:ACTION[:COUNT]". ACTION is `kill` (SIGKILL to
 * itself), `fail` (the caller takes its error path), `stop` (SIGSTOP to itself) or `delay=MS`; COUNT
 * says at which arrival it fires (default 1), once; `every`: at each. The numbers are stable; they are the
 * rows of the table in docs/spec/stream.md. Unset costs one load and one predicted branch. */
#ifndef FERRY_BASE_FAULT_H
#define FERRY_BASE_FAULT_H

#include <stdbool.h>

/* Where in the hand-over. The name says who is at which step. */
enum fy_fault {
    FY_FAULT_NONE = 0,
    /* source worker */
    FY_FAULT_SRC_CONNECTED = 10,      /* after negotiation, before memory */
    FY_FAULT_SRC_ROUND = 11,          /* at the start of a round; COUNT picks it */
    FY_FAULT_SRC_BEFORE_JOURNAL = 12, /* before HANDING_OVER is asked of the daemon */
    FY_FAULT_SRC_BEFORE_PAUSE = 13,   /* HANDING_OVER is durable, the guest runs */
    FY_FAULT_SRC_PAUSED = 14,         /* the guest is paused */
    FY_FAULT_SRC_STATE_SENT = 15,     /* all memory and state are sent */
    FY_FAULT_SRC_READY = 16,          /* the target said READY, not latched */
    FY_FAULT_SRC_LATCHED = 17,        /* latched, COMMIT not sent */
    FY_FAULT_SRC_COMMITTED = 18,      /* COMMIT sent, no answer yet */
    FY_FAULT_SRC_RAN = 19,            /* the target said RUNNING, the daemon does not know */
    /* target worker */
    FY_FAULT_DST_CONNECTED = 30, /* description received, nothing created */
    FY_FAULT_DST_CREATED = 31,   /* the hypervisor is there */
    FY_FAULT_DST_ROUND = 32,     /* a barrier was passed; COUNT picks it */
    FY_FAULT_DST_STATE = 33,     /* state received, not loaded */
    FY_FAULT_DST_LOADED = 34,    /* loaded, READY not sent */
    FY_FAULT_DST_READY = 35,     /* READY sent */
    FY_FAULT_DST_COMMIT = 36,    /* COMMIT received, the daemon not told */
    FY_FAULT_DST_RAN = 37,       /* the daemon ran it, RUNNING not sent */
    /* source daemon */
    FY_FAULT_SD_BEFORE_JOURNAL = 50, /* asked for HANDING_OVER, not written */
    FY_FAULT_SD_AFTER_JOURNAL = 51,  /* written, not answered */
    FY_FAULT_SD_BEFORE_DONE = 52,    /* told that the target runs, not written */
    FY_FAULT_SD_AFTER_DONE = 53,     /* written, the old hypervisor still there */
    /* target daemon */
    FY_FAULT_TD_BEFORE_CREATE = 60, /* asked to create, nothing written */
    FY_FAULT_TD_CREATED = 61,       /* INCOMING written, hypervisor spawned */
    FY_FAULT_TD_BEFORE_RUN = 62,    /* told RUN, the guest not resumed */
    FY_FAULT_TD_AFTER_RUN = 63,     /* resumed, RAN not written */
    FY_FAULT_TD_AFTER_RAN = 64,     /* RAN written, not answered */
    FY_FAULT_TD_BEFORE_ABORT = 65,  /* asked about an ID that never ran, ABORT not written */
    FY_FAULT_TD_AFTER_ABORT = 66,   /* ABORT written, not answered */
    FY_FAULT_TD_DISKS_OPEN = 67,    /* about to open the guest's disks */
    /* hypervisors */
    FY_FAULT_SH_PAUSED = 80,      /* the source's: pause done */
    FY_FAULT_SH_LATCHED = 81,     /* the source's: latch done, not answered */
    FY_FAULT_TH_LOADED = 82,      /* the target's: state loaded, not answered */
    FY_FAULT_TH_BEFORE_RUN = 83,  /* the target's: told to run, not running */
    FY_FAULT_TH_AFTER_RUN = 84,   /* the target's: running, not answered */
    FY_FAULT_SH_DISKS_AWAY = 85,  /* the source's: disks flushed and unlocked, not latched */
    FY_FAULT_SH_DISKS_BACK = 86,  /* the source's: about to lock its disks again */
    FY_FAULT_TH_DISKS_TAKEN = 87, /* the target's: disks locked, not running */
    /* mutations: damage that only the guest's own checker can see; `fail` makes them happen */
    FY_FAULT_MUT_DROP_PAGE = 100,   /* a page is not sent */
    FY_FAULT_MUT_SKIP_ZERO = 101,   /* a page that became zero is not sent */
    FY_FAULT_MUT_OMIT_LAST = 102,   /* a round's last batch of a channel is not sent */
    FY_FAULT_MUT_SWAP_ROUNDS = 103, /* a batch of an earlier round is applied again after a later one */
    FY_FAULT_MUT_NO_BARRIER =
        104, /* a channel does not wait for the others at a barrier (each arrival counts) */
};

/* Read FERRY_FAULT. Call once at start, before threads; a word that it cannot read is logged. */
void fy_fault_init(void);

/* Arrive at a point. True when the caller must take its failure path. Any thread. */
bool fy_fault_hit(enum fy_fault point);

/* Whether FERRY_FAULT names the point. Any thread. */
bool fy_fault_armed(enum fy_fault point);

#endif
