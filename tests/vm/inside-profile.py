"""Puts itself under an AppArmor profile and tries what that must and must not allow; prints which of it
worked, as JSON. The program and its modules are loaded before, so nothing but the attempts counts."""

import ctypes
import json
import os
import socket
import sys

profile, pid = sys.argv[1], sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


def open_socket(family, kind):
    def attempt():
        socket.socket(family, kind).close()

    return attempt


def write(path):
    def attempt():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))

    return attempt


def read(path):
    def attempt():
        with open(path, "rb") as file:
            file.read(1)

    return attempt


def run():
    # No fork: a program that could be run would end this one, and print nothing.
    if os.fork() == 0:
        try:
            os.execv("/bin/true", ["true"])
        finally:
            os._exit(9)
    if os.wait()[1] != 0:
        raise PermissionError


def trace():
    if libc.ptrace(PTRACE_SEIZE, int(pid), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


attempts = {
    "tcp socket": open_socket(socket.AF_INET, socket.SOCK_STREAM),
    "tcp6 socket": open_socket(socket.AF_INET6, socket.SOCK_STREAM),
    "udp socket": open_socket(socket.AF_INET, socket.SOCK_DGRAM),
    "netlink socket": open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "unix socket": open_socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "write a file": write("/var/tmp/attempt"),
    "write in /etc": write("/etc/attempt"),
    "run a program": run,
    "read the target's maps": read(f"/proc/{pid}/maps"),
    "read the target's program": read(f"/proc/{pid}/exe"),
}
if profile == "godebug-gateway":
    # dlv may; and a process has one tracer, so it is not tried where it would succeed.
    attempts["trace the target"] = trace

with open("/proc/self/attr/apparmor/current", "w") as current:
    current.write(f"changeprofile {profile}")
worked = {}
for name, attempt in attempts.items():
    try:
        attempt()
        worked[name] = True
    except OSError:
        worked[name] = False
print(json.dumps(worked))
