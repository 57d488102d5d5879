// SPDX-License-Identifier: Apache-2.0
/* diskio DISK randread|randwrite|seqread|seqwrite THREADS SECONDS: that many threads read or write 4 KiB at
 * random places (seq*: 128 KiB one behind the other) past the page cache, one request each at a time. Prints
 * "!disk REQUESTS MICROSECONDS BYTES". */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 64

static int fd;
static uint64_t disk_bytes, end_us;
static bool writing, sequential;

struct worker {
    pthread_t id;
    unsigned number, count;
    uint64_t done;
    int err;
};

static uint64_t now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    size_t bytes = sequential ? 131072 : 4096;
    uint64_t places = disk_bytes / bytes, at = w->number, seed = 88172645463325252ull + w->number * 7919;
    void *buf;
    if (posix_memalign(&buf, 4096, bytes)) {
        w->err = ENOMEM;
        return NULL;
    }
    memset(buf, (int)w->number + 1, bytes);
    while (now_us() < end_us) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        uint64_t place = (sequential ? at : seed >> 8) % places;
        at += w->count;
        ssize_t n = writing ? pwrite(fd, buf, bytes, (off_t)(place * bytes))
                            : pread(fd, buf, bytes, (off_t)(place * bytes));
        if (n != (ssize_t)bytes) {
            w->err = n < 0 ? errno : EIO;
            break;
        }
        w->done++;
    }
    free(buf);
    return NULL;
}

int main(int argc, char **argv)
{
    static struct worker workers[THREADS_MAX];
    if (argc != 5)
        return 2;
    unsigned count = (unsigned)atoi(argv[3]);
    writing = !strcmp(argv[2], "randwrite") || !strcmp(argv[2], "seqwrite");
    sequential = !strncmp(argv[2], "seq", 3);
    fd = open(argv[1], (writing ? O_RDWR : O_RDONLY) | O_DIRECT);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size < 1 << 20 || count < 1 || count > THREADS_MAX) {
        perror(argv[1]);
        return 1;
    }
    disk_bytes = (uint64_t)size;
    uint64_t begin = now_us(), done = 0;
    end_us = begin + (uint64_t)atoi(argv[4]) * 1000000;
    for (unsigned i = 0; i < count; i++) {
        workers[i].number = i;
        workers[i].count = count;
        if (pthread_create(&workers[i].id, NULL, work, &workers[i]))
            return 1;
    }
    for (unsigned i = 0; i < count; i++) {
        pthread_join(workers[i].id, NULL);
        done += workers[i].done;
        if (workers[i].err) {
            fprintf(stderr, "!error %s\n", strerror(workers[i].err));
            return 1;
        }
    }
    printf("!disk %llu %llu %llu\n", (unsigned long long)done, (unsigned long long)(now_us() - begin),
           (unsigned long long)(done * (sequential ? 131072 : 4096)));
    return 0;
}
