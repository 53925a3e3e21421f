#!/bin/sh
# Takes away everything that one test host made on this machine. Waits for the end of its standard
# input first: the harness holds the other end, so this also works when the harness was killed.
# usage: cleanup.sh NAME DIRECTORY
set -u
name=$1 directory=$2
cat >/dev/null

cgroup_mounts() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts; }

for mount in $(cgroup_mounts); do
	[ -e "$mount/$name/cgroup.kill" ] || continue
	echo 1 >"$mount/$name/cgroup.kill"
	tries=0
	while grep -q 'populated 1' "$mount/$name/cgroup.events" && [ $tries -lt 500 ]; do
		sleep 0.02
		tries=$((tries + 1))
	done
done
for mount in $(cgroup_mounts); do
	[ ! -d "$mount/$name" ] || find "$mount/$name" -depth -type d -exec rmdir {} \;
done
for namespace in "$name-host" "$name-laptop"; do
	[ ! -e "/run/netns/$namespace" ] || ip netns del "$namespace"
done
if [ -d "$directory" ]; then
	while mountpoint -q "$directory/root"; do
		umount "$directory/root" || umount -l "$directory/root" || break
	done
	rm -rf --one-file-system "$directory"
fi
