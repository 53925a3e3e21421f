#!/bin/sh
# Runs inside a virtual machine's file system (its root is the image, /mnt is tests/vm): what it needs
# that a container does not.
set -eu

install -m 0755 /mnt/shell.sh /usr/local/sbin/harness-shell
cat >/etc/systemd/system/harness-console.service <<'UNIT'
[Unit]
Description=Runs what the tests type on the second serial port

[Service]
ExecStart=/usr/local/sbin/harness-shell
Restart=always
# As an administrator's login.
SELinuxContext=system_u:system_r:unconfined_t:s0

[Install]
WantedBy=multi-user.target
UNIT
cat >/etc/systemd/system/harness-network.service <<'UNIT'
[Unit]
Description=The wire to the tests' laptop
Before=network-pre.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip address add 10.77.0.1/24 dev eth0
ExecStart=/usr/sbin/ip address add fd77::1/64 dev eth0 nodad
ExecStart=/usr/sbin/ip link set eth0 up

[Install]
WantedBy=multi-user.target
UNIT
systemctl enable harness-console.service harness-network.service
# Neither a login nor upkeep is wanted while scenarios run.
systemctl mask serial-getty@.service e2scrub_all.timer systemd-tmpfiles-clean.timer \
	systemd-timesyncd.service systemd-networkd.service systemd-random-seed.service
