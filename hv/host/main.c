// SPDX-License-Identifier: Apache-2.0
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/fault.h"
#include "hv/base/log.h"
#include "hv/host/daemon.h"
#include "hv/host/promise.h"

static const char usage[] =
    "usage: ferryd [--root DIR] [--listen ADDRESS:PORT] [--libexec DIR] [--engine ENGINE] [--disks DIR]...\n"
    "              [--memory-overcommit RATIO] [--cpu-overcommit RATIO] [--foreground]\n"
    "\n"
    "  --root DIR            where everything is kept (" FYD_DEFAULT_ROOT ")\n"
    "  --listen ADDRESS:PORT where peers connect (" FYD_DEFAULT_LISTEN "; port 0: any)\n"
    "  --libexec DIR         where ferry-hv and ferry-migrate are (next to ferryd)\n"
    "  --engine ENGINE       runs guests that arrive: kvm, soft, or auto (as on the host that they left, "
    "where it can be)\n"
    "  --disks DIR|URI       a folder that incoming guests' disks may be in (" FYD_DEFAULT_DISKS
    "; repeat for more),\n"
    "                        or nbd://HOST, a server that they may be at\n"
    "  --memory-overcommit RATIO  how much may be promised to guests, of the host's memory (1.0)\n"
    "  --cpu-overcommit RATIO     vCPUs for each CPU before ferryd warns (4.0)\n"
    "  --foreground          stay in the foreground\n"
    "  --version, --help\n";

/* Returns the exit status, or -1 to go on. */
static int read_options(int argc, char **argv, struct fyd_options *o, bool *foreground)
{
    static const struct option longs[] = {
        {"root", required_argument, NULL, 'r'},
        {"listen", required_argument, NULL, 'l'},
        {"libexec", required_argument, NULL, 'x'},
        {"engine", required_argument, NULL, 'e'},
        {"disks", required_argument, NULL, 'd'},
        {"memory-overcommit", required_argument, NULL, 'M'},
        {"cpu-overcommit", required_argument, NULL, 'C'},
        {"foreground", no_argument, NULL, 'f'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "r:l:x:e:d:fVh", longs, NULL)) != -1) {
        switch (c) {
        case 'r':
            o->root = optarg;
            break;
        case 'l':
            o->listen = optarg;
            break;
        case 'x':
            o->libexec = optarg;
            break;
        case 'e':
            if (strcmp(optarg, "kvm") != 0 && strcmp(optarg, "soft") != 0 && strcmp(optarg, "auto") != 0) {
                fprintf(stderr, "ferryd: no engine %s (kvm, soft or auto; icount is a guest's own)\n",
                        optarg);
                return FY_EUSAGE;
            }
            o->engine = optarg;
            break;
        case 'd':
            if ((optarg[0] != '/' && strncmp(optarg, "nbd://", 6) != 0) ||
                o->disk_folder_count == FYD_DISK_FOLDERS_MAX) {
                fprintf(stderr, "ferryd: --disks %s: an absolute path or nbd://..., at most %d of them\n",
                        optarg, FYD_DISK_FOLDERS_MAX);
                return FY_EUSAGE;
            }
            o->disk_folders[o->disk_folder_count++] = optarg;
            break;
        case 'M':
        case 'C':
            if (fyd_ratio_parse(optarg, c == 'M' ? &o->memory_ratio : &o->cpu_ratio) < 0) {
                fprintf(stderr, "ferryd: --%s-overcommit %s: a number from 1.0 to 100\n",
                        c == 'M' ? "memory" : "cpu", optarg);
                return FY_EUSAGE;
            }
            break;
        case 'f':
            *foreground = true;
            break;
        case 'V':
            puts("ferryd " FERRY_VERSION);
            return 0;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return FY_EUSAGE;
        }
    }
    if (optind != argc) {
        fprintf(stderr, "ferryd: %s: unknown argument\n%s", argv[optind], usage);
        return FY_EUSAGE;
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct fyd_options o = {0};
    struct fy_err e;
    bool foreground = false;
    int rc = read_options(argc, argv, &o, &foreground);
    if (rc >= 0)
        return rc;
    fy_log_init("ferryd", FY_LOG_INFO);
    fy_fault_init();
    signal(SIGPIPE, SIG_IGN);
    if (!foreground && !getenv("NOTIFY_SOCKET") && daemon(0, 1) < 0) {
        fy_error("cannot go into the background");
        return FY_EFAIL;
    }
    struct fy_loop *loop = fy_loop_new(&e);
    struct fyd *d = loop ? fyd_open(&o, loop, &e) : NULL;
    if (!d) {
        fy_error("%s", e.text);
        return e.code;
    }
    fy_info("ferryd " FERRY_VERSION " serves %s, peers at %s", d->root, d->listen);
    if (fy_loop_run(loop, &e) < 0)
        fy_error("%s", e.text);
    fyd_close(d);
    fy_loop_free(loop);
    return 0;
}
