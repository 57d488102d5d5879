// SPDX-License-Identifier: Apache-2.0
#include "migrate/job.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"

#define START_TIMEOUT_S 10

struct fy_job {
    int sock;
    Ferry__JobStart *start;
    int fds[FY_MSG_FDS];
    int nfds;
    struct fy_job_events events;
    pthread_t reader;
    bool reading;
    pthread_mutex_t lock; /* all below, and sending */
    pthread_cond_t answered;
    uint64_t next_id;
    uint64_t waiting; /* id of the call under way, 0: none */
    Ferry__WorkerIn *answer;
    int answer_fd;
    bool gone;
};

struct fy_job *fy_job_open(int sock, struct fy_err *e)
{
    struct fy_job *j = calloc(1, sizeof *j);
    uint8_t *buf = malloc(FY_MSG_MAX);
    if (!j || !buf) {
        free(j);
        free(buf);
        fy_close(&sock);
        fy_fail(e, FY_ERESOURCE, "no memory for the job");
        return NULL;
    }
    j->sock = sock;
    j->next_id = 1;
    j->answer_fd = -1;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->answered, NULL);
    struct timeval tv = {.tv_sec = START_TIMEOUT_S};
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    j->nfds = FY_MSG_FDS;
    long n = fy_msg_recv(sock, buf, j->fds, &j->nfds, e);
    if (n > 0 && !(j->start = ferry__job_start__unpack(NULL, (size_t)n, buf)))
        fy_fail(e, FY_ECORRUPT, "the daemon's JobStart does not parse");
    else if (n == 0 || n == -2)
        fy_fail(e, FY_EUNREACHABLE, "the daemon sent no JobStart");
    free(buf);
    if (j->start && j->start->job_id.len != FY_JOB_ID_LEN) {
        fy_fail(e, FY_ECORRUPT, "the job's id has %zu bytes, not %d", j->start->job_id.len, FY_JOB_ID_LEN);
        ferry__job_start__free_unpacked(j->start, NULL);
        j->start = NULL;
    }
    if (!j->start) {
        fy_job_free(j);
        return NULL;
    }
    tv.tv_sec = 0;
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    return j;
}

/* Hand an answer to the call that waits for it; true when it was taken. */
static bool deliver(struct fy_job *j, Ferry__WorkerIn *in, int fd)
{
    bool taken = false;
    pthread_mutex_lock(&j->lock);
    if (in->id && in->id == j->waiting && !j->answer) {
        j->answer = in;
        j->answer_fd = fd;
        pthread_cond_broadcast(&j->answered);
        taken = true;
    }
    pthread_mutex_unlock(&j->lock);
    return taken;
}

static void handle(struct fy_job *j, Ferry__WorkerIn *in, int fd)
{
    const struct fy_job_events *ev = &j->events;
    if (deliver(j, in, fd))
        return;
    switch (in->kind_case) {
    case FERRY__WORKER_IN__KIND_CANCEL:
        if (ev->cancel)
            ev->cancel(ev->arg, in->cancel->why && *in->cancel->why ? in->cancel->why : "cancelled");
        break;
    case FERRY__WORKER_IN__KIND_SET:
        if (ev->set)
            ev->set(ev->arg, in->set);
        break;
    case FERRY__WORKER_IN__KIND_CHANNEL:
        if (ev->channel && fd >= 0) {
            ev->channel(ev->arg, in->channel->channel, fd);
            fd = -1;
        }
        break;
    default:
        break;
    }
    fy_close(&fd);
    ferry__worker_in__free_unpacked(in, NULL);
}

static void *read_loop(void *arg)
{
    struct fy_job *j = arg;
    uint8_t *buf = malloc(FY_MSG_MAX);
    struct fy_err e;
    while (buf) {
        int fds[FY_MSG_FDS];
        int nfds = FY_MSG_FDS;
        long n = fy_msg_recv(j->sock, buf, fds, &nfds, &e);
        if (n <= 0)
            break;
        for (int i = 1; i < nfds; i++)
            fy_close(&fds[i]);
        int fd = nfds > 0 ? fds[0] : -1;
        Ferry__WorkerIn *in = ferry__worker_in__unpack(NULL, (size_t)n, buf);
        if (in)
            handle(j, in, fd);
        else
            fy_close(&fd);
    }
    free(buf);
    pthread_mutex_lock(&j->lock);
    j->gone = true;
    pthread_cond_broadcast(&j->answered);
    pthread_mutex_unlock(&j->lock);
    if (j->events.gone)
        j->events.gone(j->events.arg);
    return NULL;
}

int fy_job_run(struct fy_job *j, const struct fy_job_events *events, struct fy_err *e)
{
    j->events = *events;
    int rc = pthread_create(&j->reader, NULL, read_loop, j);
    if (rc)
        return fy_fail_errno(e, FY_ERESOURCE, rc, "cannot start a thread");
    j->reading = true;
    return 0;
}

void fy_job_free(struct fy_job *j)
{
    if (!j)
        return;
    if (j->reading) {
        /* Reading ends; what was sent before is still delivered. */
        shutdown(j->sock, SHUT_RD);
        pthread_join(j->reader, NULL);
    }
    fy_close(&j->sock);
    for (int i = 0; i < j->nfds; i++)
        fy_close(&j->fds[i]);
    if (j->start)
        ferry__job_start__free_unpacked(j->start, NULL);
    if (j->answer)
        ferry__worker_in__free_unpacked(j->answer, NULL);
    fy_close(&j->answer_fd);
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->answered);
    free(j);
}

const Ferry__JobStart *fy_job_start(const struct fy_job *j)
{
    return j->start;
}

int fy_job_take_fd(struct fy_job *j, unsigned index)
{
    if ((int)index >= j->nfds)
        return -1;
    int fd = j->fds[index];
    j->fds[index] = -1;
    return fd;
}

/* With the lock held. */
static int send_locked(struct fy_job *j, const Ferry__WorkerOut *out, struct fy_err *e)
{
    size_t len = ferry__worker_out__get_packed_size(out);
    uint8_t *buf = len <= FY_MSG_MAX ? malloc(len + 1) : NULL;
    if (!buf)
        return fy_fail(e, FY_ERESOURCE, "a message of %zu bytes to the daemon is too long", len);
    ferry__worker_out__pack(out, buf);
    int rc = fy_msg_send(j->sock, buf, len, NULL, 0, e);
    free(buf);
    return rc;
}

int fy_job_call(struct fy_job *j, Ferry__WorkerOut *out, Ferry__WorkerIn **answer, int *fd, struct fy_err *e)
{
    pthread_mutex_lock(&j->lock);
    out->id = j->waiting = j->next_id++;
    int rc = send_locked(j, out, e);
    while (rc == 0 && !j->answer && !j->gone)
        pthread_cond_wait(&j->answered, &j->lock);
    Ferry__WorkerIn *in = j->answer;
    int in_fd = j->answer_fd;
    j->answer = NULL;
    j->answer_fd = -1;
    j->waiting = 0;
    pthread_mutex_unlock(&j->lock);
    if (rc == 0 && !in)
        rc = fy_fail(e, FY_EUNREACHABLE, "ferryd ended during the job");
    if (rc == 0 && in->code)
        rc = fy_fail(e, (int)in->code, "%s", in->text);
    if (rc == 0 && fd) {
        *fd = in_fd;
        in_fd = -1;
    }
    fy_close(&in_fd);
    if (rc == 0 && answer)
        *answer = in;
    else if (in)
        ferry__worker_in__free_unpacked(in, NULL);
    return rc;
}

void fy_job_tell(struct fy_job *j, Ferry__WorkerOut *out)
{
    struct fy_err ignored;
    pthread_mutex_lock(&j->lock);
    out->id = 0;
    send_locked(j, out, &ignored);
    pthread_mutex_unlock(&j->lock);
}

void fy_job_report(struct fy_job *j, Ferry__JobReport *report, const struct fy_err *failure)
{
    static char completed[] = "completed";
    static char failed[] = "failed";
    static char cancelled[] = "cancelled";
    static char uncertain[] = "uncertain";
    if (failure) {
        report->code = (uint32_t)failure->code;
        report->error = (char *)(uintptr_t)failure->text;
        report->state = failure->code == FY_ECANCELLED   ? cancelled
                        : failure->code == FY_EUNCERTAIN ? uncertain
                                                         : failed;
    } else if (!report->state || !*report->state) {
        report->state = completed;
    }
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_REPORT;
    out.report = report;
    fy_job_tell(j, &out);
}

struct fy_tls *fy_job_tls(struct fy_job *j, bool server, bool anyone, struct fy_err *e)
{
    const Ferry__JobStart *s = j->start;
    int key = fy_job_take_fd(j, 0);
    int cert = fy_job_take_fd(j, 1);
    struct fy_pin *pins = calloc(s->n_peers + 1, sizeof *pins);
    struct fy_tls *tls = NULL;
    size_t count = 0;
    for (size_t i = 0; pins && i < s->n_peers; i++) {
        if (s->peers[i]->certificate_sha256.len != FY_CERT_DIGEST)
            continue;
        snprintf(pins[count].host, sizeof pins[count].host, "%s", s->peers[i]->host);
        memcpy(pins[count++].digest, s->peers[i]->certificate_sha256.data, FY_CERT_DIGEST);
    }
    if (key < 0 || cert < 0 || !pins)
        fy_fail(e, FY_EFAIL, "the daemon gave no key and certificate (run `vmctl host init`)");
    else
        tls = fy_tls_new(key, cert, server, pins, count, anyone, e);
    free(pins);
    fy_close(&key);
    fy_close(&cert);
    return tls;
}
