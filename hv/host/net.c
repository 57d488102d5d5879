// SPDX-License-Identifier: Apache-2.0
#include "hv/host/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/log.h"

#define TUN_PATH "/dev/net/tun"
#define HEADER_BYTES 12 /* of virtio 1.x, before each frame */

bool fyd_nic_is_user(const Ferry__Nic *nic)
{
    return !strcmp(nic->kind, "user");
}

static unsigned queues_of(const Ferry__Nic *nic)
{
    return nic->queues ? nic->queues : 1;
}

static bool may_administer(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct have[2];
    memset(have, 0, sizeof have);
    return syscall(SYS_capget, &head, have) == 0 && have[0].effective >> CAP_NET_ADMIN & 1;
}

/* Set the name; false: it is too long for one, or none. */
static bool name_request(struct ifreq *r, const char *name)
{
    memset(r, 0, sizeof *r);
    size_t len = strlen(name);
    if (!len || len >= IFNAMSIZ || strchr(name, '%') || strchr(name, '/'))
        return false;
    memcpy(r->ifr_name, name, len + 1);
    return true;
}

/* What drives the interface and, for a tun driver's, of which kind it is. false: there is none of this name.
 */
static bool driver_of(int sock, const char *name, struct ethtool_drvinfo *info)
{
    struct ifreq r;
    memset(info, 0, sizeof *info);
    info->cmd = ETHTOOL_GDRVINFO;
    if (!name_request(&r, name) || ioctl(sock, SIOCGIFINDEX, &r) < 0)
        return false;
    r.ifr_data = (void *)info;
    ioctl(sock, SIOCETHTOOL, &r); /* without an answer the names stay empty */
    return true;
}

/* Is something else listening there? 0: no, else an errno. */
static int port_taken(const Ferry__NicForward *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)f->host_port)};
    int on = 1, err = 0;
    if (inet_pton(AF_INET, *f->host_address ? f->host_address : "127.0.0.1", &a.sin_addr) != 1)
        return EINVAL;
    int sock = socket(AF_INET, (f->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (!f->udp)
        setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (sock < 0 || bind(sock, (struct sockaddr *)&a, sizeof a) < 0 || (!f->udp && listen(sock, 1) < 0))
        err = errno;
    fy_close(&sock);
    return err;
}

static void check_forwards(const Ferry__Nic *nic, unsigned i, char *why, size_t room)
{
    for (size_t k = 0; k < nic->n_forwards; k++) {
        const Ferry__NicForward *f = nic->forwards[k];
        int err = f->host_port && f->host_port <= 65535 ? port_taken(f) : EINVAL;
        if (err) {
            snprintf(why, room, "net%u: %s port %u of %s cannot be forwarded: %s", i, f->udp ? "udp" : "tcp",
                     f->host_port, *f->host_address ? f->host_address : "127.0.0.1", strerror(err));
            return;
        }
    }
}

static void check_interface(const Ferry__Nic *nic, unsigned i, char *why, size_t room)
{
    struct ethtool_drvinfo info;
    bool bridge = !strcmp(nic->kind, "bridge");
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (!driver_of(sock, nic->name, &info))
        snprintf(why, room, "net%u: there is no %s %s here", i, nic->kind, nic->name);
    else if (bridge && strcmp(info.driver, "bridge") != 0)
        snprintf(why, room, "net%u: %s is no bridge here", i, nic->name);
    else if (!bridge && (strcmp(info.driver, "tun") != 0 || strcmp(info.bus_info, "tap") != 0))
        snprintf(why, room, "net%u: %s is no tap here", i, nic->name);
    else if (access(TUN_PATH, R_OK | W_OK) < 0)
        snprintf(why, room, "net%u: " TUN_PATH " cannot be opened here: %s", i, strerror(errno));
    else if (bridge && !may_administer())
        snprintf(
            why, room,
            "net%u: ferryd may not put a tap on bridge %s (it lacks CAP_NET_ADMIN; a tap that is there and "
            "its user's own needs none: -n tap=NAME)",
            i, nic->name);
    fy_close(&sock);
}

void fyd_nic_check(const Ferry__Nic *nic, unsigned i, bool starts, char *why, size_t room)
{
    why[0] = 0;
    if (queues_of(nic) > (fyd_nic_is_user(nic) ? 1 : FYD_NIC_QUEUES))
        snprintf(why, room, "net%u: %u queues (at most %u)", i, nic->queues,
                 fyd_nic_is_user(nic) ? 1 : FYD_NIC_QUEUES);
    else if (!fyd_nic_is_user(nic) && strcmp(nic->kind, "tap") != 0 && strcmp(nic->kind, "bridge") != 0)
        snprintf(why, room, "net%u: a network of kind \"%s\" is not known here", i, nic->kind);
    else if (!fyd_nic_is_user(nic))
        check_interface(nic, i, why, room);
    else if (starts)
        check_forwards(nic, i, why, room);
}

/* One queue. r names the tap, or how to name it; it comes back with the name. */
static int open_queue(struct ifreq *r, bool many, struct fy_err *e)
{
    int header = HEADER_BYTES, little = 1;
    int fd = open(TUN_PATH, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fy_fail_errno(e, FY_EUNSUPPORTED, errno, "cannot open " TUN_PATH);
    r->ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (many ? IFF_MULTI_QUEUE : 0));
    if (ioctl(fd, TUNSETIFF, r) < 0) {
        int err = errno;
        close(fd);
        return fy_fail_errno(e, err == EBUSY ? FY_EEXISTS : FY_ERESOURCE, err, "cannot take tap %s%s%s",
                             r->ifr_name, err == EBUSY ? " (something else has it)" : "",
                             err == EINVAL
                                 ? (many ? " (it must have been made with multi_queue for more than one)"
                                         : " (it must have been made without multi_queue for one queue)")
                                 : "");
    }
    if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 || ioctl(fd, TUNSETVNETLE, &little) < 0) {
        int err = errno;
        close(fd);
        return fy_fail_errno(e, FY_EUNSUPPORTED, err, "tap %s takes no headers", r->ifr_name);
    }
    return fd;
}

/* The host itself is no party on a guest's cable: it gives the tap no address of its own. */
static void no_addresses(const char *name)
{
    char path[64 + IFNAMSIZ];
    snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "1", 1) != 1)
        fy_debug("%s: %s", path, strerror(errno));
    fy_close(&fd);
}

static int join_bridge(const Ferry__Nic *nic, struct ifreq *tap, struct fy_err *e)
{
    struct ifreq r;
    char name[IFNAMSIZ];
    memcpy(name, tap->ifr_name, sizeof name);
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    no_addresses(name);
    int rc = name_request(&r, name) && ioctl(sock, SIOCGIFINDEX, &r) == 0 ? 0 : -1;
    int index = r.ifr_ifindex;
    if (rc == 0 && nic->mtu) {
        r.ifr_mtu = (int)nic->mtu;
        rc = ioctl(sock, SIOCSIFMTU, &r);
    }
    if (rc == 0 && name_request(&r, nic->name)) {
        r.ifr_ifindex = index;
        rc = ioctl(sock, SIOCBRADDIF, &r);
    }
    if (rc == 0 && name_request(&r, name) && (rc = ioctl(sock, SIOCGIFFLAGS, &r)) == 0) {
        r.ifr_flags |= IFF_UP;
        rc = ioctl(sock, SIOCSIFFLAGS, &r);
    }
    int err = errno;
    fy_close(&sock);
    return rc == 0 ? 0
                   : fy_fail_errno(e, FY_ERESOURCE, err, "cannot put tap %s on bridge %s", name, nic->name);
}

int fyd_nic_open(const Ferry__Nic *nic, unsigned i, int fds[FYD_NIC_QUEUES], struct fy_err *e)
{
    char why[256];
    struct ifreq r;
    unsigned count = queues_of(nic), n = 0;
    bool bridge = !strcmp(nic->kind, "bridge");
    fyd_nic_check(nic, i, false, why, sizeof why);
    if (*why)
        return fy_fail(e, FY_EREFUSED, "%s", why);
    if (bridge) {
        memset(&r, 0, sizeof r);
        snprintf(r.ifr_name, sizeof r.ifr_name, "fy%%d");
    } else if (!name_request(&r, nic->name)) {
        return fy_fail(e, FY_EUSAGE, "net%u: %s is no interface's name", i, nic->name);
    }
    while (n < count && (fds[n] = open_queue(&r, count > 1, e)) >= 0)
        n++;
    if (n == count && (!bridge || join_bridge(nic, &r, e) == 0))
        return (int)n;
    while (n)
        fy_close(&fds[--n]);
    return fy_fail_prefix(e, "net%u", i);
}
