"""Types into a real shell, on a terminal of its own, and tells what command it ran.

The program that is completed is a stand-in of its name: it hands `complete` and `completions` to the real one, and writes
whatever else it is called with to a file. Each line of standard input is typed, then the key for completion and the one that
runs the line; the arguments that came of it are printed as a JSON array, one a line.

Usage: complete.py SHELL PROGRAM DIRECTORY < lines
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time

DEADLINE = 30
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
BEGIN = {
    "bash": "source <(zeek-cluster-agent completions bash)",
    "zsh": "autoload -U compinit; compinit -u -D; source <(zeek-cluster-agent completions zsh)",
    "fish": "zeek-cluster-agent completions fish | source",
}


def stand_in(directory, program, ran):
    path = os.path.join(directory, "zeek-cluster-agent")
    with open(path, "w") as script:
        script.write(
            f'#!/bin/sh\ncase "$1" in\ncomplete|completions) exec "{program}" "$@" ;;\nesac\n'
            f'for word in "$@"; do printf "%s\\n" "$word"; done > "{ran}.new"\nmv "{ran}.new" "{ran}"\n'
        )
    os.chmod(path, 0o755)


def main():
    shell, program, directory = sys.argv[1:]
    bin_directory = os.path.join(directory, "bin")
    os.makedirs(bin_directory, exist_ok=True)
    ran = os.path.join(directory, "ran")
    stand_in(bin_directory, program, ran)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        os.environ.update(PATH=bin_directory + os.pathsep + os.environ["PATH"], TERM="xterm", PS1="$ ", INPUTRC="/dev/null")
        os.execvp(SHELLS[shell][0], SHELLS[shell])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    shown = bytearray()

    def run(keys):
        """Sends keys and waits until the stand-in was called."""
        if os.path.exists(ran):
            os.remove(ran)
        os.write(terminal, keys.encode())
        deadline = time.monotonic() + DEADLINE
        while not os.path.exists(ran):
            if time.monotonic() > deadline:
                sys.exit(f"{shell} did not run {keys!r}; it showed {bytes(shown)!r}")
            if select.select([terminal], [], [], 0.05)[0]:
                shown.extend(os.read(terminal, 1 << 16))
        with open(ran) as words:
            return words.read().splitlines()

    run(BEGIN[shell] + "; zeek-cluster-agent begun\r")
    for line in sys.stdin.read().splitlines():
        print(json.dumps(run(line + "\t\r")), flush=True)
    os.write(terminal, b"exit\r")
    os.close(terminal)
    os.waitpid(pid, 0)


main()
