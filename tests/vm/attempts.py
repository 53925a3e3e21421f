"""Puts a child of itself under an AppArmor profile, or into an SELinux domain, and tries what that must and
must not allow; prints which of it worked, as JSON. The program and its modules are loaded before, so nothing
but the attempts counts.
usage: attempts.py profile:NAME|domain:NAME PID"""

import ctypes
import json
import mmap
import os
import socket
import sys

(kind, inside), pid = sys.argv[1].split(":"), sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


def open_socket(family, kind):
    def attempt():
        socket.socket(family, kind).close()

    return attempt


def listen(port):
    def attempt():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind(("0.0.0.0", port))
            listener.listen()

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
if "gateway" in inside:
    # dlv may; and a process has one tracer, so it is not tried where it would succeed.
    attempts["trace the target"] = trace
for port in 2350, 3000:
    attempts[f"listen on port {port}"] = listen(port)

# Whatever the child may not write to, memory that it shares with its parent it may.
results = mmap.mmap(-1, len(attempts))
child = os.fork()
if child == 0:
    with open("/proc/self/attr/current" if kind == "domain" else "/proc/self/attr/apparmor/current", "w") as file:
        if kind == "domain":
            file.write(f"system_u:system_r:{inside}:s0")
        else:
            file.write(f"changeprofile {inside}")
    for number, attempt in enumerate(attempts.values()):
        try:
            attempt()
            results[number] = 2
        except OSError:
            results[number] = 1
    os._exit(0)
_, status = os.waitpid(child, 0)
if status != 0 or 0 in results[:]:
    sys.exit(f"the attempts ended with {status}: {results[:]}")
print(json.dumps({name: results[number] == 2 for number, name in enumerate(attempts)}))
