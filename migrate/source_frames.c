// SPDX-License-Identifier: Apache-2.0
/* What comes to the guest's network cards here while others learn that it has moved follows it. The guest
 * runs at the target by now: nothing here can hurt the hand-over, so failures are only logged. */
#include "hv/base/checked.h"
#include "hv/base/log.h"
#include "migrate/source.h"

#define CALLS_MAX 64
/* Two round trips after the target's announcement nothing more should come; within these bounds. */
#define LINGER_MIN_MS 2
#define LINGER_MAX_MS 50

static int relay(struct fy_source *s, bool last, struct fy_err *e)
{
    bool more = true;
    for (unsigned i = 0; more && i < CALLS_MAX; i++) {
        Ferry__ControlOut *out;
        Ferry__StreamFrames m = FERRY__STREAM_FRAMES__INIT;
        if (fy_ctl_frames(s->ctl, &out, e) < 0)
            return -1;
        m.frames = out->response->frames->frames;
        more = out->response->frames->more && i + 1 < CALLS_MAX;
        m.last = last && !more;
        int rc = m.frames.len || m.last ? fy_control_send(&s->control, FY_REC_FRAMES, &m.base, e) : 0;
        if (rc == 0)
            rc = fy_chan_flush(s->control.chan, e);
        ferry__control_out__free_unpacked(out, NULL);
        if (rc < 0)
            return -1;
    }
    return 0;
}

void fy_source_relay(struct fy_source *s)
{
    struct fy_err e;
    uint64_t ms = FY_DIV_UP(2 * s->round_trip_ns, 1000000);
    ms = FY_MIN(FY_MAX(ms, (uint64_t)LINGER_MIN_MS), (uint64_t)LINGER_MAX_MS);
    if (relay(s, false, &e) < 0 || fy_chan_wait(s->control.chan, -1, (int)ms, &e) != 0 ||
        relay(s, true, &e) < 0)
        fy_debug("frames for the guest that left: given up");
}
