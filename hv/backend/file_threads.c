// SPDX-License-Identifier: Apache-2.0
/* Steps by threads, for hosts whose kernel has no io_uring or forbids it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hv/backend/file_internal.h"
#include "hv/sandbox/sandbox.h"

#define THREADS 4
#define STACK_BYTES (128u << 10)

/* A step that waits for a thread, or its result for reap. */
struct job {
    struct job *next;
    struct fy_block_req *r;
    struct fy_file_step s;
};

struct queue {
    struct job *first, **last;
};

struct threads {
    struct fy_file_engine g;
    int fd, event_fd;
    pthread_t id[THREADS];
    unsigned count;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t some, finished;
    struct queue todo, done;
    struct job *spare;
    struct job jobs[FY_BLOCK_DEPTH];
    bool quit;
};

static void push(struct queue *q, struct job *j)
{
    j->next = NULL;
    *q->last = j;
    q->last = &j->next;
}

static struct job *pop(struct queue *q)
{
    struct job *j = q->first;
    if (j) {
        q->first = j->next;
        if (!q->first)
            q->last = &q->first;
    }
    return j;
}

static int64_t carry_out(const struct threads *t, const struct fy_file_step *s)
{
    int64_t n = 0;
    switch (s->call) {
    case FY_FILE_READV:
        n = preadv(t->fd, s->iov, (int)s->iov_count, (off_t)s->offset);
        break;
    case FY_FILE_WRITEV:
        n = pwritev(t->fd, s->iov, (int)s->iov_count, (off_t)s->offset);
        break;
    case FY_FILE_SYNC:
        n = fdatasync(t->fd);
        break;
    case FY_FILE_ALLOC:
        n = fallocate(t->fd, s->mode, (off_t)s->offset, (off_t)s->bytes);
        break;
    }
    return n < 0 ? -errno : n;
}

static void *thread_main(void *arg)
{
    struct threads *t = arg;
    fy_sandbox_thread(FY_SANDBOX_IO);
    pthread_mutex_lock(&t->lock);
    while (!t->quit) {
        struct job *j = pop(&t->todo);
        if (!j) {
            pthread_cond_wait(&t->some, &t->lock);
            continue;
        }
        pthread_mutex_unlock(&t->lock);
        int64_t result = carry_out(t, &j->s);
        pthread_mutex_lock(&t->lock);
        j->r->result = result;
        push(&t->done, j);
        pthread_cond_signal(&t->finished);
        eventfd_write(t->event_fd, 1);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void threads_start(struct fy_file_engine *g, struct fy_block_req *r, const struct fy_file_step *s)
{
    struct threads *t = (struct threads *)g;
    pthread_mutex_lock(&t->lock);
    struct job *j = t->spare;
    t->spare = j->next;
    j->r = r;
    j->s = *s;
    push(&t->todo, j);
    pthread_cond_signal(&t->some);
    pthread_mutex_unlock(&t->lock);
}

static bool threads_kick(struct fy_file_engine *g)
{
    (void)g;
    return false;
}

static struct fy_block_req *threads_reap(struct fy_file_engine *g, bool wait)
{
    struct threads *t = (struct threads *)g;
    struct fy_block_req *r = NULL;
    pthread_mutex_lock(&t->lock);
    while (wait && !t->done.first)
        pthread_cond_wait(&t->finished, &t->lock);
    struct job *j = pop(&t->done);
    if (j) {
        r = j->r;
        j->next = t->spare;
        t->spare = j;
    }
    pthread_mutex_unlock(&t->lock);
    return r;
}

static void threads_free(struct fy_file_engine *g)
{
    struct threads *t = (struct threads *)g;
    pthread_mutex_lock(&t->lock);
    t->quit = true;
    pthread_cond_broadcast(&t->some);
    pthread_mutex_unlock(&t->lock);
    for (unsigned i = 0; i < t->count; i++)
        pthread_join(t->id[i], NULL);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->some);
    pthread_cond_destroy(&t->finished);
    free(t);
}

static const struct fy_file_engine_ops threads_ops = {.name = "threads",
                                                      .start = threads_start,
                                                      .kick = threads_kick,
                                                      .reap = threads_reap,
                                                      .free = threads_free};

struct fy_file_engine *fy_file_threads_new(int fd, int event_fd, struct fy_err *e)
{
    struct threads *t = calloc(1, sizeof *t);
    if (!t) {
        fy_fail(e, FY_ERESOURCE, "no memory for a disk's threads");
        return NULL;
    }
    t->g.ops = &threads_ops;
    t->fd = fd;
    t->g.poll_fd = -1;
    t->event_fd = event_fd;
    t->todo.last = &t->todo.first;
    t->done.last = &t->done.first;
    for (unsigned i = 0; i < FY_BLOCK_DEPTH; i++) {
        t->jobs[i].next = t->spare;
        t->spare = &t->jobs[i];
    }
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->some, NULL);
    pthread_cond_init(&t->finished, NULL);
    sigset_t all, was;
    pthread_attr_t attr;
    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &was);
    int err = 0;
    while (!err && t->count < THREADS)
        if (!(err = pthread_create(&t->id[t->count], &attr, thread_main, t)))
            t->count++;
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    pthread_attr_destroy(&attr);
    if (!t->count) {
        fy_fail_errno(e, FY_ERESOURCE, err, "cannot start a disk's threads");
        threads_free(&t->g);
        return NULL;
    }
    return &t->g;
}
