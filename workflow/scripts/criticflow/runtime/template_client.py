"""Takes the place of ``python``: a program runs as a fork of a template (see ``template``).

    python -I -S template_client.py SOCKET [OPTIONS] PROGRAM|-c CODE ARGUMENTS...

It is started for each program, so it imports little. Where the template does not answer, it becomes
the interpreter that it stands for.
"""

import json
import os
import signal
import socket
import sys


def main() -> int:
    """Have the program run, and end as it ends."""
    address, *argv = sys.argv[1:]
    program = list(argv)
    while program and program[0].startswith("-") and program[0] != "-c":
        program.pop(0)  # options of the interpreter, such as -u
    template = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        template.connect(address)
    except OSError:
        os.execv(sys.executable, [sys.executable, *argv])
    files = open_files(but=template.fileno())
    request = {"argv": program, "env": dict(os.environ), "cwd": os.getcwd(), "files": files}
    body = json.dumps(request).encode()
    socket.send_fds(template, [len(body).to_bytes(8, "big")], files)
    template.sendall(body)
    for file in files:
        os.close(file)  # who waits for the other end of a pipe waits for the program alone
    answer = template.recv(16)
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
