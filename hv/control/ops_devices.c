// SPDX-License-Identifier: Apache-2.0
/* Requests about devices. */
#include <string.h>

#include "hv/control/internal.h"

int fy_op_balloon(struct fy_server *s, const Ferry__BalloonRequest *op, struct fy_answer *a, struct fy_err *e)
{
    struct fy_virtio *balloon = fy_machine_balloon(s->m);
    struct fy_balloon_status st;
    Ferry__BalloonReply *r = &a->u.balloon;
    if (!balloon)
        return fy_fail(e, FY_EUNSUPPORTED, "this guest has no memory balloon");
    uint64_t memory = fy_machine_desc(s->m)->memory_bytes;
    if (op->set && op->target >= memory)
        return fy_fail(e, FY_EUSAGE, "the guest has %llu MiB of memory and cannot give up %llu MiB",
                       (unsigned long long)(memory >> 20), (unsigned long long)(op->target >> 20));
    if (op->set)
        fy_balloon_set_target(balloon, op->target);
    fy_balloon_status(balloon, &st);
    ferry__balloon_reply__init(r);
    r->target = st.target;
    r->actual = st.actual;
    r->reported = st.reported;
    if (st.stats_known) {
        memcpy(a->balloon_stats, st.stats, sizeof st.stats);
        r->stats = a->balloon_stats;
        r->n_stats = FY_BALLOON_STATS;
    }
    a->resp.op_case = FERRY__RESPONSE__OP_BALLOON;
    a->resp.balloon = r;
    return 0;
}
