#!/bin/sh
# Makes the disk DISK of a virtual machine from the stacked layers LOWER. Started in a mount namespace
# of its own, so nothing stays mounted however this ends.
# usage: make-disk.sh LOWER DISK WORK INPUT LSM
set -eu
lower=$1 disk=$2 work=$3 input=$4 lsm=$5
mkdir -p "$work/tree" "$work/root"
mount -t overlay overlay -o "ro,lowerdir=$lower,redirect_dir=off,index=off,metacopy=off" "$work/tree"
mke2fs -q -t ext4 -m 0 -E lazy_itable_init=0 -d "$work/tree" "$disk" 4G
umount "$work/tree"
mount -o loop "$disk" "$work/root"
mount --bind -o ro "$input" "$work/root/mnt"
mount -t proc proc "$work/root/proc"
inside() {
	chroot "$work/root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 /bin/sh -eu "$1"
}
inside /mnt/setup.sh
[ "$lsm" != selinux ] || inside /mnt/setup-selinux.sh
umount "$work/root/proc" "$work/root/mnt"
umount "$work/root"
