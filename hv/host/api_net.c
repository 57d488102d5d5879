// SPDX-License-Identifier: Apache-2.0
/* API requests about network cards. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/host/guests.h"
#include "hv/host/net.h"

#define CALL_MS 10000

int fyd_nics_check(Ferry__Nic *const *nics, size_t count, struct fy_err *e)
{
    char all[FY_ERR_TEXT] = "", why[256];
    size_t at = 0;
    if (count > FYD_NICS_MAX)
        return fy_fail(e, FY_EUSAGE, "%zu network cards: a guest has at most %d", count, FYD_NICS_MAX);
    for (size_t i = 0; i < count; i++) {
        fyd_nic_check(nics[i], (unsigned)i, true, why, sizeof why);
        if (*why && at < sizeof all)
            at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", at ? "\n" : "", why);
    }
    return at ? fy_fail(e, FY_EREFUSED, "%s", all) : 0;
}

struct rate {
    struct fyd_client *c;
    uint8_t uuid[FYD_ID_LEN];
    char nic[16];
    uint64_t rate;
};

static void rate_answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    struct rate *a = arg;
    struct fyd_guest *g = fyd_guest_by_uuid(a->c->d, a->uuid);
    char id[16];
    (void)r;
    (void)fds;
    (void)nfds;
    for (unsigned i = 0; !err && g && g->machine && i < g->machine->n_nics; i++) {
        snprintf(id, sizeof id, "net%u", i);
        if (!strcmp(id, a->nic))
            g->machine->nics[i]->rate = a->rate;
    }
    if (err)
        fyd_reply_error(a->c, err);
    else
        fyd_reply_done(a->c);
    fyd_client_release(a->c);
    free(a);
}

void fyd_api_nic_rate(struct fyd_client *c, const Ferry__ApiNicRate *op)
{
    struct fyd_guest *g = fyd_api_live_guest(c, op->name);
    struct rate *a = g ? calloc(1, sizeof *a) : NULL;
    if (!a) {
        if (g)
            fyd_reply_fail(c, FY_ERESOURCE, "no memory for the request");
        return;
    }
    a->c = c;
    a->rate = op->rate;
    memcpy(a->uuid, g->uuid, FYD_ID_LEN);
    fyd_copy(a->nic, sizeof a->nic, op->nic);
    fyd_client_hold(c);
    Ferry__NicRequest nic = FERRY__NIC_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    nic.id = op->nic;
    nic.set_rate = true;
    nic.rate = op->rate;
    req.op_case = FERRY__REQUEST__OP_NIC;
    req.nic = &nic;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, rate_answered, a);
}
