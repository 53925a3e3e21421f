#!/bin/sh
# Runs inside a new image (its root is the image, /mnt is this crate's folder): people, sample
# services built with the image's own Go, and the few settings that a container boots better with.
set -eu

people() {
	useradd --system --no-create-home --shell /usr/sbin/nologin shop
	useradd --create-home --shell /bin/bash alice
	useradd --create-home --shell /bin/bash bob
	# Debian's polkit takes the group sudo for its administrators.
	getent group sudo >/dev/null || groupadd --system sudo
	useradd --create-home --shell /bin/bash --groups sudo carol
}

build() { # OUTPUT SAMPLE [GO BUILD OPTIONS...]
	output=/opt/samples/$1 source=/opt/samples/src/$2
	shift 2
	(cd "$source" && go build -o "$output" "$@" .)
}

samples() {
	mkdir -p /opt/samples/src
	cp -r /mnt/samples/shop /mnt/samples/ticker /mnt/samples/burden /mnt/samples/museum /opt/samples/src/
	cp /mnt/samples/web/web.py /opt/samples/
	cp /mnt/image/units/* /etc/systemd/system/

	export HOME=/root GOCACHE=/tmp/go-cache GOPATH=/tmp/go
	export GOFLAGS='-mod=mod -buildvcs=false' GOPROXY=off GOTOOLCHAIN=local CGO_ENABLED=0 GOTELEMETRY=off
	build shop shop
	build shop-pie shop -buildmode=pie
	# A stripped program and its twin with debug information, for --symbols: the same text, data and
	# identities. Without -trimpath the linker's flags, which differ, would be recorded in both.
	identity='-buildid=shop-stripped -B 0x676f6465627567'
	build shop-stripped shop -trimpath -ldflags="-s -w $identity"
	build shop-stripped.debug-full shop -trimpath -ldflags="$identity"
	build ticker ticker
	build burden burden
	# Not optimised, so that all of it is there to be shown.
	build museum museum "-gcflags=-N -l"
	rm -rf /tmp/go-cache /tmp/go /root/.config/go
}

# The other suites' dlv lie in folders with the suites' names; the product wants their versions.
debuggers() {
	for folder in /usr/lib/godebug/delve/*; do
		version=$("$folder/dlv" version | sed -n 's/^Version: //p')
		[ -n "$version" ]
		mv "$folder" "/usr/lib/godebug/delve/$version"
	done
	rm -rf /root/.config
}

settings() {
	echo testhost >/etc/hostname
	printf '127.0.0.1 localhost\n127.0.1.1 testhost\n::1 localhost\n' >/etc/hosts
	: >/etc/resolv.conf
	# A fixed identity: otherwise every boot is a first boot.
	systemd-machine-id-setup
	systemctl enable myapp.service harness-shell.service
	# Those who come by ssh start it themselves.
	systemctl disable ssh.service ssh.socket || true
	# These fail in, or reach out of, a container.
	systemctl mask systemd-modules-load.service apt-daily.timer apt-daily-upgrade.timer \
		dpkg-db-backup.timer fstrim.timer console-getty.service getty@.service \
		sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
		dev-hugepages.mount systemd-pstore.service
	ldconfig
	journalctl --update-catalog
	touch -r /usr /etc/.updated /var/.updated
}

people
samples
debuggers
settings
