"""Prints a line for each process: what identifies it, and what a debugger could have left on it."""

import sys


def text_differs(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            words = line.split()
            if "x" not in words[1] or words[4] == "0":
                continue
            start, end = (int(number, 16) for number in words[0].split("-"))
            with open(f"/proc/{pid}/map_files/{start:x}-{end:x}", "rb") as file:
                file.seek(int(words[2], 16))
                expected = file.read(end - start)
            memory.seek(start)
            if memory.read(len(expected)) != expected:
                return True
    return False


for pid in sys.argv[1:]:
    status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    start = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[19]
    label = open(f"/proc/{pid}/attr/current").read().strip("\0\n")
    print(
        pid, start, label, "traced by", status["TracerPid"].strip(),
        "stopped" if status["State"].strip()[0] in "tT" else "free",
        "text changed" if text_differs(pid) else "text as in its file",
    )
