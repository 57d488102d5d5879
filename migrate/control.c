// SPDX-License-Identifier: Apache-2.0
#include "migrate/control.h"

#include <stdlib.h>

#include "proto/stream.pb-c.h"

int fy_control_init(struct fy_control *c, struct fy_err *e)
{
    *c = (struct fy_control){.buf = malloc(FY_RECORD_BODY_MAX)};
    return c->buf ? 0 : fy_fail(e, FY_ERESOURCE, "no memory for the control channel");
}

void fy_control_release(struct fy_control *c)
{
    fy_chan_free(c->chan);
    free(c->buf);
    c->chan = NULL;
    c->buf = NULL;
}

int fy_control_read(struct fy_control *c, uint16_t want, struct fy_record_header *h, struct fy_err *e)
{
    if (fy_record_read(c->chan, &c->in, c->buf, h, e) < 0)
        return -1;
    if (h->type == FY_REC_ERROR) {
        Ferry__StreamError *m = ferry__stream_error__unpack(NULL, h->length, c->buf);
        int code = m && m->code && m->code <= FY_ECRASHED ? (int)m->code : FY_EFAIL;
        fy_fail(e, code, "%s: %s", c->peer, m && m->text ? m->text : "failed without a reason");
        if (m)
            ferry__stream_error__free_unpacked(m, NULL);
        return -1;
    }
    if (want && h->type != want)
        return fy_fail(e, FY_ECORRUPT, "record type %u where type %u is due", h->type, want);
    return 0;
}

int fy_control_send(struct fy_control *c, uint16_t type, const ProtobufCMessage *m, struct fy_err *e)
{
    return fy_record_send_proto(c->chan, &c->out, type, m, e);
}

void fy_control_send_error(struct fy_control *c, const struct fy_err *why)
{
    struct fy_err ignored;
    Ferry__StreamError m = FERRY__STREAM_ERROR__INIT;
    m.code = (uint32_t)why->code;
    m.text = (char *)(uintptr_t)why->text;
    if (c->chan)
        fy_control_send(c, FY_REC_ERROR, &m.base, &ignored);
}
