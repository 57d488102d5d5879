// SPDX-License-Identifier: Apache-2.0
#include "tests/engine/hvproc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/hex.h"
#include "hv/base/io.h"
#include "hv/base/msg.h"
#include "proto/machine.pb-c.h"
#include "proto/wire.h"

#define CODE_ADDR 0x100000u

#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #cond, strerror(errno));                  \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

static int file_with(const char *name, const void *buf, size_t len)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    MUST(fd >= 0 && fy_pwrite_all(fd, buf, len, 0) == 0);
    return fd;
}

/* ELF64 with one segment at CODE_ADDR and the PVH note (generic ABI; Xen's elfnote.h for
 * XEN_ELFNOTE_PHYS32_ENTRY). */
static int make_elf(const void *code, size_t len)
{
    uint8_t elf[8192];
    memset(elf, 0, sizeof elf);
    MUST(len < 4096);
    memcpy(elf, "\177ELF\2\1\1", 7);
    fy_put16(elf + 16, 2);
    fy_put16(elf + 18, 62);
    fy_put32(elf + 20, 1);
    fy_put64(elf + 24, CODE_ADDR);
    fy_put64(elf + 32, 64);
    fy_put16(elf + 52, 64);
    fy_put16(elf + 54, 56);
    fy_put16(elf + 56, 2);
    uint8_t *load = elf + 64, *note = load + 56, *n = elf + 256;
    fy_put32(load, 1);
    fy_put32(load + 4, 7);
    fy_put64(load + 8, 4096);
    fy_put64(load + 16, CODE_ADDR);
    fy_put64(load + 24, CODE_ADDR);
    fy_put64(load + 32, len);
    fy_put64(load + 40, len);
    fy_put64(load + 48, 4096);
    fy_put32(note, 4);
    fy_put64(note + 8, 256);
    fy_put64(note + 32, 24);
    fy_put64(note + 40, 24);
    fy_put64(note + 48, 4);
    fy_put32(n, 4);
    fy_put32(n + 4, 8);
    fy_put32(n + 8, 18);
    memcpy(n + 12, "Xen", 4);
    fy_put64(n + 16, CODE_ADDR);
    memcpy(elf + 4096, code, len);
    return file_with("kernel", elf, sizeof elf);
}

static int make_config(const struct hvproc_options *o)
{
    uint8_t buf[65536], uuid[16];
    size_t len;
    if (o->machine) {
        len = ferry__machine__pack(o->machine, buf);
    } else {
        Ferry__Machine m = FERRY__MACHINE__INIT;
        Ferry__CpuPolicy cpu = FERRY__CPU_POLICY__INIT;
        fy_uuid_new(uuid);
        m.uuid = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
        m.name = (char *)(uintptr_t) "test";
        m.memory_bytes = o->memory ? o->memory : 64u << 20;
        m.vcpus = o->vcpus ? o->vcpus : 1;
        m.engine = (char *)(uintptr_t) "kvm"; /* left to itself, ferry-hv may find this host's unfit */
        cpu.model = (char *)(uintptr_t)(o->model ? o->model : "");
        m.cpu = &cpu;
        m.debug_exit = o->debug_exit;
        m.prealloc = o->prealloc;
        m.dirty_ring = o->dirty_ring;
        if (o->cmdline)
            m.cmdline = (char *)(uintptr_t)o->cmdline;
        len = ferry__machine__pack(&m, buf);
    }
    return file_with("config", buf, len);
}

static int make_memory(uint64_t bytes)
{
    int fd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    MUST(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    return fd;
}

struct args {
    char *v[40];
    int n;
    char text[20][32];
    int texts;
};

static void add(struct args *a, const char *name, int fd)
{
    a->v[a->n++] = (char *)(uintptr_t)name;
    if (fd < 0)
        return;
    fy_set_cloexec(fd, false);
    snprintf(a->text[a->texts], sizeof a->text[0], "%d", fd);
    a->v[a->n++] = a->text[a->texts++];
}

static void read_ready(struct hvproc *p, int sock, uint64_t start)
{
    static uint8_t buf[FY_MSG_MAX];
    struct fy_err e;
    long n = fy_msg_recv(sock, buf, NULL, NULL, &e);
    p->ready_ns = fy_now_ns() - start;
    MUST(n > 0);
    p->ready = ferry__hv_ready__unpack(NULL, (size_t)n, buf);
    MUST(p->ready);
}

struct hvproc *hvproc_start(const char *program, const struct hvproc_options *o)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        return NULL;
    struct hvproc *p = calloc(1, sizeof *p);
    struct args a = {.n = 0};
    int ready[2];
    char ro[64];
    MUST(p);
    snprintf(p->path, sizeof p->path, "/tmp/ferry-test-%d-%llx", (int)getpid(),
             (unsigned long long)fy_now_ns());
    p->listen = fy_msg_listen(p->path, 0600, NULL);
    MUST(p->listen >= 0 && fy_msg_pair(ready, NULL) == 0);
    uint64_t bytes = o->machine ? o->machine->memory_bytes : o->memory ? o->memory : 64u << 20;
    p->mem_fd = make_memory(bytes);
    snprintf(ro, sizeof ro, "/proc/self/fd/%d", p->mem_fd);
    int ro_fd = open(ro, O_RDONLY | O_CLOEXEC);
    p->runlog_fd =
        o->bad_runlog ? open("/dev/full", O_WRONLY | O_CLOEXEC) : memfd_create("runlog", MFD_CLOEXEC);
    MUST(ro_fd >= 0 && fcntl(p->runlog_fd, F_SETFL, O_APPEND) == 0);
    int config = make_config(o);
    int kernel = o->kernel_path ? open(o->kernel_path, O_RDONLY | O_CLOEXEC)
                                : (o->code ? make_elf(o->code, o->code_len) : -1);
    int initrd = o->initrd_path ? open(o->initrd_path, O_RDONLY | O_CLOEXEC) : -1;
    a.v[a.n++] = (char *)(uintptr_t)program;
    add(&a, "--config-fd", config);
    add(&a, "--control-fd", p->listen);
    add(&a, "--kvm-fd", kvm);
    add(&a, "--mem-fd", p->mem_fd);
    add(&a, "--mem-ro-fd", ro_fd);
    add(&a, "--runlog-fd", p->runlog_fd);
    add(&a, "--ready-fd", ready[1]);
    if (kernel >= 0)
        add(&a, "--kernel-fd", kernel);
    if (initrd >= 0)
        add(&a, "--initrd-fd", initrd);
    if (o->machine)
        add(&a, "--incoming", -1);
    if (o->paused)
        add(&a, "--paused", -1);
    uint64_t start = fy_now_ns();
    p->pid = fork();
    MUST(p->pid >= 0);
    if (p->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* no guest outlives a test that fails */
        if (o->fault)
            setenv("FERRY_FAULT", o->fault, 1);
        execv(program, a.v);
        perror(program);
        _exit(127);
    }
    fy_close(&ready[1]);
    read_ready(p, ready[0], start);
    fy_close(&ready[0]);
    fy_close(&config);
    fy_close(&kvm);
    fy_close(&ro_fd);
    fy_close(&kernel);
    fy_close(&initrd);
    fy_close(&p->listen);
    fy_set_cloexec(p->mem_fd, true);
    fy_set_cloexec(p->runlog_fd, true);
    if (!p->ready->code) {
        p->ctl = hvproc_connect(p);
        MUST(p->ctl);
    }
    return p;
}

struct fy_ctl *hvproc_connect(struct hvproc *p)
{
    int sock = fy_msg_connect(p->path, NULL);
    MUST(sock >= 0);
    return fy_ctl_new(sock, 20000, NULL);
}

int hvproc_wait(struct hvproc *p)
{
    int status = -1;
    struct timespec ms = {.tv_nsec = 1000000};
    for (int i = 0; i < 10000 && p->pid > 0; i++) {
        if (waitpid(p->pid, &status, WNOHANG) == p->pid) {
            p->pid = 0;
            return status;
        }
        nanosleep(&ms, NULL);
    }
    return -1;
}

int hvproc_end(struct hvproc *p)
{
    int status = 0;
    if (!p)
        return 0;
    if (p->pid > 0) {
        kill(p->pid, SIGKILL);
        waitpid(p->pid, &status, 0);
    }
    unlink(p->path);
    fy_ctl_free(p->ctl);
    fy_close(&p->mem_fd);
    fy_close(&p->runlog_fd);
    if (p->ready)
        ferry__hv_ready__free_unpacked(p->ready, NULL);
    free(p);
    return status;
}

Ferry__StatusReply *hvproc_status(struct hvproc *p, Ferry__ControlOut **hold)
{
    struct fy_err e;
    if (fy_ctl_status(p->ctl, hold, &e) < 0) {
        fprintf(stderr, "status: %s\n", e.text);
        return NULL;
    }
    return (*hold)->response->status;
}

bool hvproc_await(struct hvproc *p, Ferry__GuestState state)
{
    struct timespec ms = {.tv_nsec = 1000000};
    for (int i = 0; i < 20000; i++) {
        Ferry__ControlOut *hold;
        Ferry__StatusReply *s = hvproc_status(p, &hold);
        if (!s)
            return false;
        bool there = s->state == state;
        ferry__control_out__free_unpacked(hold, NULL);
        if (there)
            return true;
        nanosleep(&ms, NULL);
    }
    return false;
}
