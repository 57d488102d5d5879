// SPDX-License-Identifier: Apache-2.0
/* A guest's end of the socket device, for the devices guest. vsocket echo PORT: give back what comes over
 * each connection, one after the other. vsocket send PORT: connect to the host, send the standard input,
 * print what comes back. */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buf[65536];

static int write_all(int fd, const char *p, ssize_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, p, (size_t)n);
        if (w <= 0)
            return -1;
        p += w;
        n -= w;
    }
    return 0;
}

static int echo(const struct sockaddr_vm *a)
{
    int s = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (s < 0 || bind(s, (const struct sockaddr *)a, sizeof *a) < 0 || listen(s, 16) < 0) {
        perror("vsocket");
        return 1;
    }
    puts("listening");
    fflush(stdout);
    for (;;) {
        int c = accept(s, NULL, NULL);
        ssize_t n;
        while (c >= 0 && (n = read(c, buf, sizeof buf)) > 0)
            if (write_all(c, buf, n) < 0)
                break;
        close(c);
    }
}

static int send_all(const struct sockaddr_vm *a)
{
    int s = socket(AF_VSOCK, SOCK_STREAM, 0);
    ssize_t n;
    if (s < 0 || connect(s, (const struct sockaddr *)a, sizeof *a) < 0) {
        perror("vsocket");
        return 1;
    }
    while ((n = read(0, buf, sizeof buf)) > 0)
        if (write_all(s, buf, n) < 0)
            return 1;
    shutdown(s, SHUT_WR);
    while ((n = read(s, buf, sizeof buf)) > 0)
        write_all(1, buf, n);
    return n < 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK};
    if (argc != 3)
        return 2;
    a.svm_port = (unsigned)strtoul(argv[2], NULL, 10);
    a.svm_cid = strcmp(argv[1], "echo") ? VMADDR_CID_HOST : VMADDR_CID_ANY;
    return strcmp(argv[1], "echo") ? send_all(&a) : echo(&a);
}
