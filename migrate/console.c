// SPDX-License-Identifier: Apache-2.0
/* A console over two daemons' workers: the guest has moved, its viewer has not. Bytes go both ways in
 * records; an empty one, or the connection's end, is the end. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "migrate/control.h"
#include "migrate/run.h"
#include "proto/stream.pb-c.h"

#define CONNECT_TIMEOUT_MS 3000
#define ANSWER_TIMEOUT_MS 8000
#define CHUNK 16384

/* Both ways until either side ends. */
static int relay(struct fy_control *c, int fd, struct fy_err *e)
{
    uint8_t buf[CHUNK];
    struct fy_record_header h;
    fy_chan_set_timeout(c->chan, 0); /* people think for long */
    for (;;) {
        int ready = fy_chan_wait(c->chan, fd, -1, e);
        if (ready < 0)
            return -1;
        if (ready == 1) {
            if (fy_control_read(c, FY_REC_CONSOLE_BYTES, &h, e) < 0)
                return -1;
            if (!h.length || fy_write_all(fd, c->buf, h.length) < 0)
                return 0;
            continue;
        }
        ssize_t n = read(fd, buf, sizeof buf);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        uint32_t len = n > 0 ? (uint32_t)n : 0;
        if (fy_record_send(c->chan, &c->out, FY_REC_CONSOLE_BYTES, buf, len, true, e) < 0)
            return -1;
        if (!len)
            return 0;
    }
}

static void tell_opened(struct fy_job *job, Ferry__ConsoleOpened *opened)
{
    Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
    out.kind_case = FERRY__WORKER_OUT__KIND_CONSOLE_OPENED;
    out.console_opened = opened;
    fy_job_tell(job, &out);
}

/* Ask for the console; our daemon hears what the peer says. */
static int open_console(struct fy_job *job, struct fy_control *c, struct fy_err *e)
{
    struct fy_record_header h;
    fy_chan_set_timeout(c->chan, ANSWER_TIMEOUT_MS);
    if (fy_control_send(c, FY_REC_CONSOLE_OPEN, &fy_job_start(job)->console->base, e) < 0 ||
        fy_control_read(c, FY_REC_CONSOLE_OPENED, &h, e) < 0)
        return -1;
    Ferry__ConsoleOpened *o = ferry__console_opened__unpack(NULL, h.length, c->buf);
    if (!o)
        return fy_fail(e, FY_ECORRUPT, "the peer's answer does not parse");
    int rc = o->code ? fy_fail(e, (int)o->code, "%s", o->text) : 0;
    if (rc == 0)
        tell_opened(job, o);
    ferry__console_opened__free_unpacked(o, NULL);
    return rc;
}

/* The channel as the job's reader may see it: a process has one job, whose reader outlives what runs here. */
static struct {
    pthread_mutex_t lock;
    struct fy_chan *chan;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void show(struct fy_chan *chan)
{
    pthread_mutex_lock(&seen.lock);
    seen.chan = chan;
    pthread_mutex_unlock(&seen.lock);
}

/* The daemon's end ends the relay. */
static void gone(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&seen.lock);
    if (seen.chan)
        fy_chan_abort(seen.chan);
    pthread_mutex_unlock(&seen.lock);
}

static int connect_peer(struct fy_job *job, struct fy_control *c, struct fy_tls *tls, struct fy_err *e)
{
    const Ferry__JobStart *start = fy_job_start(job);
    if (!start->console)
        return fy_fail(e, FY_ECORRUPT, "the daemon named no console");
    int sock = fy_tcp_connect(start->address, CONNECT_TIMEOUT_MS, e);
    if (sock < 0 || fy_preface_send(sock, FY_PREFACE_CONSOLE, 0, start->job_id.data, e) < 0) {
        fy_close(&sock);
        return -1;
    }
    c->chan = fy_chan_new(sock, tls, e);
    return c->chan ? 0 : -1;
}

static void finish(struct fy_job *job, struct fy_control *c, struct fy_tls *tls, int rc,
                   const struct fy_err *e)
{
    Ferry__JobReport report = FERRY__JOB_REPORT__INIT;
    fy_job_report(job, &report, rc < 0 ? e : NULL);
    show(NULL);
    fy_control_release(c);
    fy_tls_free(tls);
}

int fy_run_console(struct fy_job *job)
{
    struct fy_err e = {0};
    struct fy_control c = {0};
    int viewer = fy_job_take_fd(job, 2);
    struct fy_tls *tls = fy_job_tls(job, false, false, &e);
    int rc = tls && viewer >= 0 && fy_control_init(&c, &e) == 0 ? connect_peer(job, &c, tls, &e) : -1;
    const struct fy_job_events events = {.gone = gone};
    show(c.chan);
    if (rc == 0)
        rc = fy_job_run(job, &events, &e);
    if (rc == 0)
        rc = open_console(job, &c, &e);
    if (rc == 0)
        rc = relay(&c, viewer, &e);
    fy_close(&viewer);
    finish(job, &c, tls, rc, &e);
    return rc < 0 ? e.code : 0;
}

/* Have our daemon open it; what it refuses goes to the peer. Returns the console, or -1. */
static int serve_open(struct fy_job *job, struct fy_control *c, struct fy_err *e)
{
    struct fy_record_header h;
    Ferry__WorkerIn *said = NULL;
    Ferry__ConsoleOpened none = FERRY__CONSOLE_OPENED__INIT;
    struct fy_err why = {0};
    int fd = -1;
    fy_chan_set_timeout(c->chan, ANSWER_TIMEOUT_MS);
    if (fy_control_read(c, FY_REC_CONSOLE_OPEN, &h, e) < 0)
        return -1;
    Ferry__ConsoleOpen *open = ferry__console_open__unpack(NULL, h.length, c->buf);
    if (!open || open->guest_uuid.len != FY_JOB_ID_LEN) {
        fy_fail(&why, FY_ECORRUPT, "the peer's request for a console does not parse");
    } else {
        Ferry__OpenConsole m = FERRY__OPEN_CONSOLE__INIT;
        Ferry__WorkerOut out = FERRY__WORKER_OUT__INIT;
        m.open = open;
        m.peer_host = (char *)(uintptr_t)fy_chan_peer(c->chan);
        out.kind_case = FERRY__WORKER_OUT__KIND_OPEN_CONSOLE;
        out.open_console = &m;
        if (fy_job_call(job, &out, &said, &fd, &why) == 0 &&
            (fd < 0 || said->kind_case != FERRY__WORKER_IN__KIND_CONSOLE))
            fy_fail(&why, FY_EFAIL, "the daemon gave no console");
    }
    if (open)
        ferry__console_open__free_unpacked(open, NULL);
    none.code = (uint32_t)why.code;
    none.text = why.text;
    int rc = fy_control_send(c, FY_REC_CONSOLE_OPENED, why.code ? &none.base : &said->console->base, e);
    if (rc == 0 && why.code) {
        *e = why;
        rc = -1;
    }
    if (said)
        ferry__worker_in__free_unpacked(said, NULL);
    if (rc < 0)
        fy_close(&fd);
    return rc < 0 ? -1 : fd;
}

int fy_run_console_serve(struct fy_job *job)
{
    struct fy_err e = {0};
    struct fy_control c = {0};
    int sock = fy_job_take_fd(job, 2);
    int fd = -1;
    struct fy_tls *tls = fy_job_tls(job, true, false, &e);
    if (tls && sock >= 0 && fy_control_init(&c, &e) == 0) {
        c.chan = fy_chan_new(sock, tls, &e);
        sock = -1;
    }
    const struct fy_job_events events = {.gone = gone};
    show(c.chan);
    int rc = c.chan ? fy_job_run(job, &events, &e) : -1;
    if (rc == 0) {
        fd = serve_open(job, &c, &e);
        rc = fd < 0 ? -1 : relay(&c, fd, &e);
    }
    fy_close(&fd);
    fy_close(&sock);
    finish(job, &c, tls, rc, &e);
    return rc < 0 ? e.code : 0;
}
