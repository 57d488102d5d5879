#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs once in the new system's tree (chroot), when its packages are installed. /ferry-setup holds what was asked for:
# hostname, uuid (of the root file system), and maybe hash, authorized_keys, script, user-data, meta-data.
set -eu
in=/ferry-setup
hostname=$(cat $in/hostname)
uuid=$(cat $in/uuid)

echo "$hostname" >/etc/hostname
cat >/etc/hosts <<END
127.0.0.1 localhost
127.0.1.1 $hostname
::1 localhost ip6-localhost ip6-loopback
END

# A lease goes with the card: a clone that gets a new one gets a new address.
mkdir -p /etc/systemd/network
cat >/etc/systemd/network/80-dhcp.network <<END
[Match]
Type=ether

[Network]
DHCP=yes

[DHCPv4]
ClientIdentifier=mac
END
systemctl enable systemd-networkd.service systemd-resolved.service
# A guest without a network is up all the same.
systemctl disable systemd-networkd-wait-online.service

# The links /vmlinuz and /initrd.img follow the newest kernel, so this file never has to change.
# Escape shows the menu.
mkdir -p /boot/grub
cat >/boot/grub/grub.cfg <<END
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout_style=hidden
set timeout=1
set default=0
menuentry "Debian" {
    linux /vmlinuz root=UUID=$uuid ro console=tty0 console=ttyS0,115200
    initrd /initrd.img
}
menuentry "Debian, the kernel before" {
    linux /vmlinuz.old root=UUID=$uuid ro console=tty0 console=ttyS0,115200
    initrd /initrd.img.old
}
END

if [ -f $in/hash ]; then
    printf 'root:%s\n' "$(cat $in/hash)" | chpasswd -e
else
    passwd --lock root >/dev/null
fi
if [ -f $in/authorized_keys ]; then
    mkdir -p /root/.ssh
    chmod 700 /root/.ssh
    cp $in/authorized_keys /root/.ssh/authorized_keys
    chmod 600 /root/.ssh/authorized_keys
fi
# Host keys are a machine's own: each clone makes them when it starts first.
if [ -e /usr/sbin/sshd ]; then
    rm -f /etc/ssh/ssh_host_*
    cat >/etc/systemd/system/ssh-host-keys.service <<END
[Unit]
Description=Make the SSH host keys of this machine
Before=ssh.service
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
END
    systemctl enable ssh-host-keys.service
fi

# The tree has no locales but C.UTF-8, and cloud-init would fail to make another.
if [ -d /etc/cloud/cloud.cfg.d ]; then
    echo 'locale: false' >/etc/cloud/cloud.cfg.d/90-image.cfg
fi
if [ -f $in/user-data ]; then
    mkdir -p /var/lib/cloud/seed/nocloud
    cp $in/user-data $in/meta-data /var/lib/cloud/seed/nocloud/
    chmod 600 /var/lib/cloud/seed/nocloud/user-data
fi
if [ -f $in/script ]; then
    chmod 700 $in/script
    $in/script </dev/null
fi

for link in vmlinuz initrd.img; do
    [ -e /$link ] || { echo "no /$link: is the kernel's package one?" >&2; exit 1; }
done
ln -sfn ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
rm -rf $in
