#!/bin/sh
# Runs SCRIPT inside the stacked layers LOWER, what it changes landing in UPPER. Started in mount and
# PID namespaces of its own, so nothing stays mounted however this ends.
# usage: build-layer.sh LOWER UPPER WORK ROOT INPUT SCRIPT
set -eu
lower=$1 upper=$2 work=$3 root=$4 input=$5 script=$6
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work,redirect_dir=off,index=off,metacopy=off" "$root"
mount -t proc proc "$root/proc"
mount --bind -o ro "$input" "$root/mnt"
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive /bin/sh -eu "$script"
