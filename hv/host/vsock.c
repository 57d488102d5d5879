// SPDX-License-Identifier: Apache-2.0
/* The host's side of guests' socket devices: unix sockets in the guest's folder. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/host/guests.h"

#define CALL_MS 5000
#define BACKLOG 64

/* The folder's path may be longer than a socket's name can be: go through its descriptor. */
static int name_in(const struct fyd_guest *g, const char *file, struct sockaddr_un *name)
{
    char path[PATH_MAX];
    fyd_guest_path(g, "", path);
    int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(name->sun_path, sizeof name->sun_path, "/proc/self/fd/%d/%s", dir, file);
    return dir;
}

int fyd_vsock_listen(struct fyd_guest *g, struct fy_err *e)
{
    struct sockaddr_un name;
    int dir = name_in(g, "vsock.sock", &name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(name.sun_path);
    if (dir < 0 || fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) < 0 ||
        chmod(name.sun_path, 0600) < 0 || listen(fd, BACKLOG) < 0) {
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make the socket vsock.sock in the guest's folder");
        fy_close(&fd);
    }
    fy_close(&dir);
    return fd;
}

static void answered(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)arg;
    (void)r;
    (void)fds;
    (void)nfds;
    if (err)
        fy_info("a guest's connection to the host: %s", err->text);
}

void fyd_vsock_connect(struct fyd_guest *g, uint32_t port, uint64_t id)
{
    struct sockaddr_un name;
    char file[32];
    snprintf(file, sizeof file, "vsock.sock_%u", port);
    int dir = name_in(g, file, &name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* A unix socket connects at once or not at all. */
    if (fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof name) < 0)
        fy_close(&fd);
    fy_close(&dir);
    Ferry__VsockAnswerRequest a = FERRY__VSOCK_ANSWER_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    a.id = id;
    req.op_case = FERRY__REQUEST__OP_VSOCK_ANSWER;
    req.vsock_answer = &a;
    fyd_hv_call(g->link, &req, &fd, fd >= 0 ? 1 : 0, CALL_MS, answered, NULL);
    fy_close(&fd);
}
