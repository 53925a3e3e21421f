# Thin on purpose: each target is a line or two of real work; the rest is in the crates.

PREFIX ?= /usr
DESTDIR ?=
CARGO ?= cargo
# `make install PROFILE=debug` installs what `cargo build` made.
PROFILE ?= release
LIB = $(DESTDIR)$(PREFIX)/lib/godebug
SHARE = $(DESTDIR)$(PREFIX)/share
PROGRAMS = godebugd godebug-revoke godebug-toolchain godebug-gateway godebug-dlvctl godebug-image

.PHONY: all check check-vm check-arm64 demo matrix known fuzz bench install deb image clean tools
all:
	$(CARGO) build --release --locked -p godebug -p godebug-gateway -p godebug-dlvctl -p godebug-image -p godebugctl

check:
	tests/check

check-vm: deb
	tests/check-vm

check-arm64:
	tests/arm64

demo:
	tests/demo

# Every kind of service, with every version of Go.
matrix: deb
	tests/matrix

# Three well-known services, built from Debian's sources.
known: deb
	tests/known

# FUZZ=600 for ten minutes of each target.
fuzz:
	GODEBUG_FUZZ_SECONDS=$(or $(FUZZ),60) $(CARGO) test --locked --release -p godebug-gateway --lib hostile -- --nocapture
	PROPTEST_CASES=$(or $(CASES),200000) $(CARGO) test --locked --release -p godebug-core --lib rules::hostile

bench: deb
	tests/packages stunnel=stunnel4 socat=socat
	$(CARGO) build --locked --release -p godebug-gateway
	$(CARGO) run --locked --release -p godebug-tests --bin bench
	$(CARGO) test --locked --release -p godebug-gateway --lib measure -- --ignored --nocapture

# One module for every distribution: its format is the oldest that all of them read.
target/selinux/godebug.pp: policy/selinux/godebug.te policy/selinux/godebug.fc
	mkdir -p target/selinux
	checkmodule -M -m -c 19 policy/selinux/godebug.te -o target/selinux/godebug.mod
	semodule_package -o $@ -m target/selinux/godebug.mod -f policy/selinux/godebug.fc

deb: all target/selinux/godebug.pp
	tests/tool cargo-deb
	$(CARGO) deb --locked --no-build -p godebug

install: $(if $(filter release,$(PROFILE)),all) target/selinux/godebug.pp
	install -D -m 0755 target/$(PROFILE)/godebugctl $(DESTDIR)$(PREFIX)/bin/godebugctl
	for p in $(PROGRAMS); do install -D -m 0755 target/$(PROFILE)/$$p $(LIB)/$$p; done
	install -D -m 0644 units/godebugd.toml $(LIB)/godebugd.toml
	for f in policy/rules.d/*; do install -D -m 0644 $$f $(LIB)/rules.d/$$(basename $$f); done
	for f in units/systemd/*; do install -D -m 0644 $$f $(DESTDIR)$(PREFIX)/lib/systemd/system/$$(basename $$f); done
	for d in sysusers.d tmpfiles.d; do install -D -m 0644 units/$$d/godebug.conf $(DESTDIR)$(PREFIX)/lib/$$d/godebug.conf; done
	install -D -m 0644 packaging/logrotate.d/godebug $(DESTDIR)/etc/logrotate.d/godebug
	install -D -m 0755 docs/examples/webhook $(LIB)/hooks/webhook
	install -D -m 0644 units/dbus-1/system-services/org.godebug1.service $(SHARE)/dbus-1/system-services/org.godebug1.service
	install -D -m 0644 policy/dbus-1/system.d/org.godebug1.conf $(SHARE)/dbus-1/system.d/org.godebug1.conf
	for f in daemon/api/introspection/*.xml; do install -D -m 0644 $$f $(SHARE)/dbus-1/interfaces/$$(basename $$f); done
	install -D -m 0644 policy/polkit-1/actions/org.godebug1.policy $(SHARE)/polkit-1/actions/org.godebug1.policy
	install -D -m 0644 policy/firewalld/services/godebug.xml $(DESTDIR)$(PREFIX)/lib/firewalld/services/godebug.xml
	for f in abstractions/base.d/godebug abstractions/godebug-gateway godebug-gateway godebug-dlv godebugd; do install -D -m 0644 policy/apparmor.d/$$f $(DESTDIR)/etc/apparmor.d/$$f; done
	install -D -m 0644 policy/apparmor/godebug-gateway $(LIB)/apparmor/godebug-gateway
	for f in target/selinux/godebug.pp policy/selinux/godebug_labels.cil policy/selinux/godebug.if; do install -D -m 0644 $$f $(SHARE)/selinux/packages/godebug/$$(basename $$f); done
	install -D -m 0755 policy/selinux/selinux-policy $(LIB)/selinux-policy
	test $(PREFIX) = /usr || sed -i 's|/usr/lib/godebug|$(PREFIX)/lib/godebug|' $(DESTDIR)$(PREFIX)/lib/systemd/system/godebugd.service $(DESTDIR)/etc/apparmor.d/abstractions/godebug-gateway $(DESTDIR)/etc/apparmor.d/godebug-dlv $(DESTDIR)/etc/apparmor.d/godebugd
