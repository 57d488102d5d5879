// SPDX-License-Identifier: Apache-2.0
/* ferry-migrate: one process per job, spawned by ferryd with the job's socket as descriptor 3. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/fault.h"
#include "hv/base/log.h"
#include "hv/sandbox/sandbox.h"
#include "migrate/identity.h"
#include "migrate/run.h"

#define JOB_FD 3
#define KEY_FD 3
#define CERT_FD 4

/* A worker's user: outside of what systems give to others, new for each process. */
static uid_t worker_user(void)
{
    return 0x67000000u | ((uint32_t)getpid() & 0xffffffu);
}

/* Before the first byte of a peer. Those who were given their peer's connection need no other. */
static int isolate(Ferry__JobKind kind, struct fy_err *e)
{
    uint32_t layers;
    const struct fy_sandbox_wants wants = {
        .uid = worker_user(),
        .connect = kind != FERRY__JOB_KIND__JOB_RECEIVE && kind != FERRY__JOB_KIND__JOB_ANSWER &&
                   kind != FERRY__JOB_KIND__JOB_CONSOLE_SERVE && kind != FERRY__JOB_KIND__JOB_PAIR_ACCEPT,
    };
    if (fy_sandbox_process(&wants, &layers, e) < 0) {
        fy_error("%s", e->text);
        return -1;
    }
    fy_sandbox_thread(FY_SANDBOX_WORKER);
    return 0;
}

static int run(struct fy_job *job, uint64_t began_ns)
{
    switch (fy_job_start(job)->kind) {
    case FERRY__JOB_KIND__JOB_SEND:
        return fy_run_send(job, began_ns);
    case FERRY__JOB_KIND__JOB_RECEIVE:
        return fy_run_receive(job, began_ns);
    case FERRY__JOB_KIND__JOB_QUERY:
        return fy_run_query(job);
    case FERRY__JOB_KIND__JOB_ANSWER:
        return fy_run_answer(job);
    case FERRY__JOB_KIND__JOB_CONSOLE:
        return fy_run_console(job);
    case FERRY__JOB_KIND__JOB_CONSOLE_SERVE:
        return fy_run_console_serve(job);
    case FERRY__JOB_KIND__JOB_PAIR_JOIN:
        return fy_run_pair_join(job);
    case FERRY__JOB_KIND__JOB_PAIR_ACCEPT:
        return fy_run_pair_accept(job);
    default:
        fy_error("JobStart names kind %d, which this build does not know", (int)fy_job_start(job)->kind);
        return FY_EUNSUPPORTED;
    }
}

int main(int argc, char **argv)
{
    struct fy_err e;
    uint64_t began_ns = fy_now_ns();
    fy_log_init("ferry-migrate", FY_LOG_INFO);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        puts(FERRY_VERSION);
        return 0;
    }
    if (argc == 3 && !strcmp(argv[1], "--make-identity")) {
        if (fy_identity_make(argv[2], KEY_FD, CERT_FD, &e) == 0)
            return 0;
        fy_error("%s", e.text);
        return e.code;
    }
    if (argc != 1) {
        fprintf(stderr,
                "ferry-migrate: is started by ferryd with a job on descriptor %d (or: --make-identity HOST, "
                "--version)\n",
                JOB_FD);
        return FY_EUSAGE;
    }
    fy_fault_init();
    struct fy_job *job = fy_job_open(JOB_FD, &e);
    if (!job) {
        fy_error("%s", e.text);
        return e.code;
    }
    int code = isolate(fy_job_start(job)->kind, &e) < 0 ? e.code : run(job, began_ns);
    fy_job_free(job);
    return code;
}
