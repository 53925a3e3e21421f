#!/bin/sh
# Runs inside the file system of the virtual machine that enforces SELinux (its root is the image, /mnt is
# tests/vm): the product's policy, what Debian's own lacks for this machine, and a label on every file.
set -eu
store=/etc/selinux/default

sed -i 's/^SELINUX=.*/SELINUX=enforcing/' /etc/selinux/config
/usr/lib/godebug/selinux-policy load --store
semodule -n -X 300 -i /mnt/selinux/*.cil
setfiles -F -e /proc -e /mnt "$store/contexts/files/file_contexts" /
