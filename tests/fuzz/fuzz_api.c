// SPDX-License-Identifier: Apache-2.0
/* The daemon's API and what else it parses. The input is a row of messages {length u16, bytes} of one client,
 * sent to a whole daemon in this process; its programs do not exist, so nothing is ever started. The bytes
 * also go, as they are, through the parsers of prefaces, tokens, certificates and the run log. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/loop.h"
#include "hv/base/msg.h"
#include "hv/host/daemon.h"
#include "hv/host/digest.h"
#include "hv/host/peers.h"
#include "hv/host/runlog.h"
#include "hv/host/token.h"
#include "tests/fuzz/fuzz.h"

static struct fy_loop *loop;
static struct fyd *daemon_under_test;
static struct fy_watch *pause_timer;

static void on_pause(void *arg)
{
    (void)arg;
    fy_loop_stop(loop);
}

static void run_for(unsigned ms)
{
    fy_timer_arm(pause_timer, ms);
    MUST(fy_loop_run(loop, NULL) == 0);
}

static char root[] = "/tmp/ferry-fuzz-api-XXXXXX";

/* The definitions that the input made. */
static void remove_definitions(void)
{
    DIR *dir = opendir("definitions");
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;)
        unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir("definitions");
}

static void clean_up(void)
{
    static const char *const names[] = {"inventory.db",  "inventory.db-wal", "inventory.db-shm",
                                        "lock",          "run.log",          "ferryd.sock",
                                        ".host.key.new", ".host.crt.new"};
    fyd_close(daemon_under_test);
    if (chdir(root) < 0)
        return;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(names[i]);
    remove_definitions();
    rmdir("guests");
    rmdir(root);
}

static void open_daemon(void)
{
    struct fy_err e = {0};
    MUST(mkdtemp(root) != NULL);
    setenv("FERRY_LOG", "error", 1);
    loop = fy_loop_new(NULL);
    MUST(loop != NULL);
    pause_timer = fy_timer_new(loop, on_pause, NULL, NULL);
    struct fyd_options o = {.root = root, .listen = "127.0.0.1:0", .libexec = "/proc"};
    daemon_under_test = fyd_open(&o, loop, &e);
    if (!daemon_under_test)
        fprintf(stderr, "%s\n", e.text);
    MUST(daemon_under_test && pause_timer);
    atexit(clean_up);
}

static void parsers(const uint8_t *data, size_t size)
{
    char text[1024];
    uint8_t digest[32];
    struct fyd_preface p;
    struct fyd_token t;
    size_t n = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, n);
    text[n] = 0;
    if (size >= FY_PREFACE_LEN && fyd_preface_parse(data, &p, NULL) == 0)
        MUST(p.channel <= FY_CHANNELS_MAX && p.kind >= FY_PREFACE_MIGRATE && p.kind <= FY_PREFACE_PAIR);
    if (fyd_token_parse(text, &t, NULL) == 0) {
        char back[FYD_TOKEN_TEXT];
        fyd_token_format(&t, back);
        MUST(!strcmp(back, text));
    }
    fyd_certificate_digest((const char *)data, size, digest, NULL);
    fyd_runlog_has_enter((const char *)data, size, "00112233445566778899aabbccddeeff");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fy_err e;
    parsers(data, size);
    if (!daemon_under_test)
        open_daemon();
    int sock =
        fy_msg_connect(strcat(strcpy((char[PATH_MAX]){0}, daemon_under_test->root), "/ferryd.sock"), &e);
    MUST(sock >= 0);
    size_t at = 0;
    while (size - at > 2) {
        size_t len = fy_get16(data + at);
        at += 2;
        len = len < size - at ? len : size - at;
        if (len && fy_msg_send(sock, data + at, len, NULL, 0, NULL) < 0)
            break;
        at += len;
    }
    run_for(1);
    fcntl(sock, F_SETFL, O_NONBLOCK);
    static uint8_t buf[FY_MSG_MAX];
    int fds[FY_MSG_FDS];
    for (;;) {
        int nfds = FY_MSG_FDS;
        long n = fy_msg_recv(sock, buf, fds, &nfds, NULL);
        if (n <= 0)
            break;
        Ferry__ApiReply *r = ferry__api_reply__unpack(NULL, (size_t)n, buf);
        MUST(r != NULL);
        MUST(r->code == 0 || (r->last && *r->text));
        ferry__api_reply__free_unpacked(r, NULL);
        for (int i = 0; i < nfds; i++)
            close(fds[i]);
    }
    close(sock);
    run_for(0);
    return 0;
}
