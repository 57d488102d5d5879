// SPDX-License-Identifier: Apache-2.0
/* vmctl start */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "hv/base/io.h"
#include "hv/define/disk.h"
#include "hv/define/net.h"

enum {
    OPT_MODEL = 256,
    OPT_ENGINE,
    OPT_FIRMWARE,
    OPT_PREALLOC,
    OPT_HUGE,
    OPT_DEBUG_EXIT,
    OPT_RING,
    OPT_PAUSED,
    OPT_NO_RNG,
    OPT_VSOCK,
    OPT_VCONSOLE,
    OPT_HERE,
    OPT_MERGE
};

const struct option cli_start_options[] = {
    {"console", no_argument, NULL, 'c'},
    {"memory", required_argument, NULL, 'm'},
    {"cpus", required_argument, NULL, 'p'},
    {"kernel", required_argument, NULL, 'k'},
    {"initrd", required_argument, NULL, 'r'},
    {"append", required_argument, NULL, 'a'},
    {"disk", required_argument, NULL, 'd'},
    {"cpu-model", required_argument, NULL, OPT_MODEL},
    {"firmware", required_argument, NULL, OPT_FIRMWARE},
    {"engine", required_argument, NULL, OPT_ENGINE},
    {"prealloc", no_argument, NULL, OPT_PREALLOC},
    {"hugepages", no_argument, NULL, OPT_HUGE},
    {"debug-exit", no_argument, NULL, OPT_DEBUG_EXIT},
    {"dirty-ring", optional_argument, NULL, OPT_RING},
    {"paused", no_argument, NULL, OPT_PAUSED},
    {"net", optional_argument, NULL, 'n'},
    {"no-rng", no_argument, NULL, OPT_NO_RNG},
    {"vsock", optional_argument, NULL, OPT_VSOCK},
    {"virtio-console", no_argument, NULL, OPT_VCONSOLE},
    {"here", no_argument, NULL, OPT_HERE},
    {"memory-merge", no_argument, NULL, OPT_MERGE},
    {NULL, 0, NULL, 0},
};

/* -n, its words in the same argument or in the next one. */
static int add_nic(struct cli *c, struct cli_start *s)
{
    char why[160];
    const char *spec = optarg;
    size_t i = s->op.n_nics;
    if (!spec && optind < c->argc && fy_nic_is_spec(c->argv[optind]))
        spec = c->argv[optind++];
    if (i == FY_DEF_NICS_MAX)
        return cli_fail(c, FY_EUSAGE, "-n: a guest has at most %d network cards", FY_DEF_NICS_MAX);
    s->nic_list[i] = &s->nics[i].nic;
    s->op.nics = s->nic_list;
    s->op.n_nics++;
    if (fy_nic_parse(spec ? spec : "", &s->nics[i], why, sizeof why) < 0)
        return cli_fail(c, FY_EUSAGE, "-n %s: %s", spec ? spec : "", why);
    s->nic_args[i] = spec ? spec : "user";
    return 0;
}

static int add_disk(struct cli *c, struct cli_start *s)
{
    struct fy_err e;
    size_t n = s->op.n_disks;
    if (n == FY_DEF_DISKS_MAX)
        return cli_fail(c, FY_EUSAGE, "a guest has at most %d disks", FY_DEF_DISKS_MAX);
    s->op.disks = s->disk_list;
    s->disk_list[n] = &s->disks[n];
    s->disk_args[n] = optarg;
    s->op.n_disks++;
    return fy_parse_disk(optarg, &s->disks[n], &s->texts[n], &e) < 0 ? cli_fail(c, e.code, "%s", e.text) : 0;
}

int cli_start_option(struct cli *c, struct cli_start *s, int o)
{
    uint64_t v;
    switch (o) {
    case 'c':
        s->console = true;
        break;
    case 'm':
        if (cli_parse_size(optarg, &s->op.memory_bytes) < 0 || s->op.memory_bytes < 2u << 20)
            return cli_fail(c, FY_EUSAGE, "-m %s is no memory size (write it like 512M or 2G, at least 2M)",
                            optarg);
        break;
    case 'p':
        if (cli_parse_number(optarg, 1, 64, &v) < 0)
            return cli_fail(c, FY_EUSAGE, "-p %s: a guest has 1 to 64 vCPUs", optarg);
        s->op.vcpus = (uint32_t)v;
        break;
    case 'k':
        s->kernel = optarg;
        break;
    case 'r':
        s->initrd = optarg;
        break;
    case 'a':
        s->op.cmdline = optarg;
        break;
    case OPT_MERGE:
        return cli_fail(
            c, FY_EUNSUPPORTED,
            "--memory-merge cannot be had: the kernel merges equal pages (KSM) of private memory only, and "
            "a guest's memory is a shared file (memfd), by which it moves. What saves memory instead: free "
            "pages that the guest reports go back to the host by themselves, as do pages that it never "
            "touched, and `vmctl set NAME memory=SIZE` makes its balloon give back more");
    case OPT_FIRMWARE:
        s->op.firmware = optarg;
        break;
    case 'd':
        return add_disk(c, s);
    case OPT_MODEL:
        s->op.cpu_model = optarg;
        break;
    case OPT_ENGINE:
        s->op.engine = optarg;
        break;
    case OPT_PREALLOC:
        s->op.prealloc = true;
        break;
    case OPT_HUGE:
        s->op.hugepages = true;
        break;
    case OPT_DEBUG_EXIT:
        s->op.debug_exit = true;
        break;
    case OPT_RING:
        if (cli_parse_number(optarg ? optarg : "4096", 1024, 65536, &v) < 0 || (v & (v - 1)))
            return cli_fail(c, FY_EUSAGE, "--dirty-ring=%s: a power of two from 1024 to 65536", optarg);
        s->op.dirty_ring = (uint32_t)v;
        break;
    case OPT_VSOCK:
        if (cli_parse_number(optarg ? optarg : "3", 3, UINT32_MAX - 1, &v) < 0)
            return cli_fail(c, FY_EUSAGE, "--vsock=%s: a guest's CID is 3 or more", optarg);
        s->op.vsock_cid = (uint32_t)v;
        break;
    case 'n':
        return add_nic(c, s);
    case OPT_NO_RNG:
        s->op.no_rng = true;
        break;
    case OPT_VCONSOLE:
        s->op.virtio_console = true;
        break;
    case OPT_HERE:
        s->op.here = true;
        break;
    default:
        s->op.paused = true;
    }
    return 0;
}

static void on_reply(void *arg, const Ferry__ApiReply *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct cli *c = arg;
    if (r->kind_case != FERRY__API_REPLY__KIND_GUEST || r->code)
        return;
    if (c->json) {
        struct cli_json j = cli_json_begin(stdout);
        cli_guest_members(&j, r->guest);
        cli_json_end(&j);
    }
    if (*r->guest->warning)
        fprintf(stderr, "vmctl: start %s: warning: %s\n", r->guest->name, r->guest->warning);
}

static int open_image(struct cli *c, const char *path, int *fd)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return cli_fail(c, FY_EUSAGE, "cannot open %s: %s", path, strerror(errno));
    return 0;
}

/* Whether nothing is asked for that a definition would have. */
static bool is_bare(const struct cli_start *s)
{
    Ferry__ApiStart bare = FERRY__API_START__INIT;
    bare.paused = s->op.paused;
    bare.here = s->op.here;
    return !s->kernel && !s->initrd &&
           ferry__api_start__get_packed_size(&s->op) == ferry__api_start__get_packed_size(&bare);
}

static int confirm_here(const struct cli *c)
{
    char typed[128];
    fprintf(stderr,
            "Be sure that %s runs on no other host. If it does, both write and its data is lost.\n"
            "Type the guest's name to go on: ",
            c->name);
    fflush(stderr);
    if (!fgets(typed, sizeof typed, stdin))
        typed[0] = 0;
    typed[strcspn(typed, "\r\n")] = 0;
    if (strcmp(typed, c->name) != 0)
        return cli_fail(c, FY_ECANCELLED,
                        "not confirmed, nothing was done (the name must be typed as it is)");
    return 0;
}

void cli_start_free(struct cli_start *s)
{
    for (size_t i = 0; i < s->op.n_disks; i++)
        free(s->texts[i]);
    for (size_t i = 0; i < s->op.n_nics; i++)
        fy_nic_free(&s->nics[i]);
    s->op.n_disks = s->op.n_nics = 0;
}

static int start(struct cli *c, struct cli_start *s)
{
    int code = 0, o;
    while ((o = cli_option(c, CLI_START_LETTERS, cli_start_options, &code)) != -1) {
        if (o == -2)
            return code;
        if ((code = cli_start_option(c, s, o)) != 0)
            return code;
    }
    if ((code = cli_operands(c, 1, "NAME [-k KERNEL|--firmware bios|uefi|FILE] [options]")) != 0)
        return code;
    s->op.from_definition = is_bare(s);
    const char *firmware = *s->op.firmware ? s->op.firmware : NULL;
    if (!s->kernel && !firmware && !s->op.from_definition)
        return cli_fail(c, FY_EUSAGE,
                        "nothing to boot is given (-k KERNEL: a PVH or Multiboot ELF image or a bzImage; or "
                        "--firmware bios|uefi|FILE; settings of a definition are changed by `vmctl set`)");
    if (firmware && !s->kernel && (s->initrd || *s->op.cmdline))
        return cli_fail(c, FY_EUSAGE,
                        "-r and -a go with a kernel: give -k, or let --firmware boot from a disk");
    if (s->op.here && (code = confirm_here(c)) != 0)
        return code;
    int fds[3] = {-1, -1, -1};
    s->op.name = (char *)(uintptr_t)c->name;
    s->op.has_initrd = s->initrd != NULL;
    Ferry__ApiRequest req = FERRY__API_REQUEST__INIT;
    req.op_case = FERRY__API_REQUEST__OP_START;
    req.start = &s->op;
    struct cli_request r = {.req = &req, .fds = fds, .on_reply = on_reply, .arg = c};
    s->op.has_firmware_file = firmware && strcmp(firmware, "bios") != 0 && strcmp(firmware, "uefi") != 0;
    const char *files[] = {s->kernel, s->initrd, s->op.has_firmware_file ? firmware : NULL};
    for (int i = 0; i < 3 && code == 0; i++)
        if (files[i])
            code = open_image(c, files[i], &fds[r.nfds++]);
    if (code == 0)
        code = cli_call(c, &r);
    for (int i = 0; i < 3; i++)
        fy_close(&fds[i]);
    return code == 0 && s->console ? cli_console(c, c->name) : code;
}

int verb_start(struct cli *c)
{
    struct cli_start s = {.op = FERRY__API_START__INIT};
    int code = start(c, &s);
    cli_start_free(&s);
    return code;
}
