"""Takes the place of ``python``: the program runs as a fork of the fork server (``fork_server``).

    python -I -S fork_client.py SOCKET [OPTIONS] PROGRAM|-c CODE ARGUMENTS...

It is started for each program, so it imports little. Where the server does not take a program, it
becomes the interpreter whose place it takes.
"""

import json
import os
import signal
import socket
import sys

WITH_ARGUMENT = ("-m", "-W", "-X")
"""Options of the interpreter that are no single word; no fork is made for them."""


def main() -> int:
    """Have the program run, and end as it ends."""
    address, *argv = sys.argv[1:]
    program = list(argv)
    while program and program[0].startswith("-") and program[0] != "-c":
        if program[0] in WITH_ARGUMENT:
            os.execv(sys.executable, [sys.executable, *argv])
        program.pop(0)  # options of the interpreter, such as -u
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    files = open_files(but=server.fileno())
    request = {"argv": program, "env": dict(os.environ), "cwd": os.getcwd(), "files": files}
    body = json.dumps(request).encode()
    try:
        server.connect(address)
        socket.send_fds(server, [len(body).to_bytes(8, "big")], files)
        server.sendall(body)
        taken = server.recv(1)
    except OSError:
        taken = b""
    if not taken:
        os.execv(sys.executable, [sys.executable, *argv])
    for file in files:
        os.close(file)  # else a pipe to the program would stay open here
    answer = server.recv(16)
    code = int(answer) if answer else -signal.SIGKILL
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


def open_files(but: int) -> list[int]:
    """Numbers of the files that this process has inherited."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            os.fstat(number)  # one of them was the directory itself
        except OSError:
            continue
        if number != but:
            found.append(number)
    return sorted(found)


if __name__ == "__main__":
    sys.exit(main())
