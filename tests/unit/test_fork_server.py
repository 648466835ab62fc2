"""A fork server: its forks behave as programs that an interpreter started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

HOLDER = """
import json, sys
from pathlib import Path
from criticflow.runtime.fork_server import start_fork_server
print(start_fork_server(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""
"""A process that has a fork server, until its standard input is closed."""


@pytest.fixture
def holder(tmp_path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process that the fork server belongs to, and the interpreter that it offers."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    yield process, process.stdout.readline().strip()
    process.kill()
    process.wait()


def run(interpreter: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [interpreter, *arguments], capture_output=True, text=True, timeout=30, **options
    )


def test_a_fork_gets_what_a_program_gets(holder, tmp_path):
    script = tmp_path / "show.py"
    script.write_text(
        "import json, os, sys\n"
        "import beside\n"
        "print(json.dumps([sys.argv, os.environ['GIVEN'], os.getcwd(), __name__, beside.HERE]))\n"
        "print(sys.stdin.read(), file=sys.stderr)\n"
    )
    (tmp_path / "beside.py").write_text("HERE = 1\n")
    (tmp_path / "folder").mkdir()
    done = run(
        holder[1],
        "-u",
        str(script),
        "--key=a b",
        env={"GIVEN": "é"},
        cwd=tmp_path / "folder",
        input="question",
    )
    assert done.returncode == 0, done.stderr
    expected = [[str(script), "--key=a b"], "é", str(tmp_path / "folder"), "__main__", 1]
    assert json.loads(done.stdout) == expected
    assert done.stderr.strip() == "question"


def test_a_fork_ends_as_a_program_ends(holder):
    assert run(holder[1], "-c", "import sys; sys.exit(7)").returncode == 7
    refused = run(holder[1], "-c", "import sys; sys.exit('no')")
    assert (refused.returncode, refused.stderr) == (1, "no\n")
    raised = run(holder[1], "-c", "raise ValueError('why')")
    assert raised.returncode == 1 and "ValueError: why" in raised.stderr
    killed = run(holder[1], "-c", "import os; os.kill(os.getpid(), 9)")
    assert killed.returncode == -signal.SIGKILL
    late = (
        "import threading, time; threading.Thread(target=lambda: (time.sleep(1), print(1))).start()"
    )
    assert run(holder[1], "-c", late).stdout == "1\n"  # it waits for its threads


def test_a_fork_leads_a_process_group_of_its_own(holder):
    """Ray kills the group of a worker that has ended."""
    done = run(holder[1], "-c", "import os; print(os.getpgid(0) == os.getpid())")
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("library", ["setproctitle", "ray._raylet"])
def test_a_fork_can_give_itself_a_title(holder, library):
    """The watchdog knows processes by theirs."""
    code = (
        f"import psutil, {library}\n"
        f"{library}.setproctitle('VLLM::EngineCore')\n"
        "print(psutil.Process().cmdline()[0])"
    )
    assert run(holder[1], "-c", code).stdout == "VLLM::EngineCore\n"


def test_forks_draw_different_numbers(holder):
    code = "import random, numpy; print(random.random(), numpy.random.random())"
    numbers = [number for _ in range(2) for number in run(holder[1], "-c", code).stdout.split()]
    assert len(set(numbers)) == 4


def test_multiprocessing_starts_its_processes_by_it(holder, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, sys\n"
        "def child(queue):\n"
        "    queue.put(os.getppid())\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_executable(sys.argv[1])\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=child, args=(queue,))\n"
        "    process.start()\n"
        "    print(queue.get(timeout=20))\n"
        "    process.join()\n"
        "    sys.exit(process.exitcode)\n"
    )
    done = run(sys.executable, str(script), holder[1])
    assert done.returncode == 0, done.stderr
    servers = psutil.Process(holder[0].pid).children()
    assert [int(done.stdout)] == [process.pid for process in servers]


def test_a_fork_goes_with_its_client_and_with_the_process_that_holds_the_server(holder):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    clients = [
        subprocess.Popen([holder[1], "-c", code], text=True, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    forks = [psutil.Process(int(client.stdout.readline())) for client in clients]
    clients[0].kill()
    forks[0].wait(timeout=10)
    assert forks[1].is_running()
    holder[0].kill()
    forks[1].wait(timeout=10)
    assert clients[1].wait(timeout=10) == -signal.SIGKILL


def test_without_a_server_the_client_is_an_interpreter(holder, tmp_path):
    interpreter = Path(holder[1]).read_text()
    holder[0].kill()
    holder[0].wait()
    time.sleep(0.2)
    alone = tmp_path / "alone"
    alone.write_text(interpreter)
    alone.chmod(0o700)
    assert run(str(alone), "-c", "print(1 + 1)").stdout == "2\n"


def test_a_process_with_threads_is_not_forked(tmp_path):
    code = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from criticflow.runtime import fork_server\n"
        "threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n"
        "assert not fork_server.single_threaded()\n"
        "fork_server.start_fork_server(Path(sys.argv[1]))\n"
    )
    done = run(sys.executable, "-c", code, str(tmp_path))
    assert "several threads" in done.stderr


PREPARED = """
import sys, threading, time
from pathlib import Path
from criticflow.runtime.fork_server import start_fork_server
def prepare():
    time.sleep(1)
    {prepare}
print(start_fork_server(Path(sys.argv[1]), prepare), flush=True)
print(sorted({{"wave"}} & set(sys.modules)), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("prepare", "forked"),
    [("import wave", True), ("threading.Thread(target=time.sleep, args=(9,)).start()", False)],
)
def test_the_server_prepares_itself_and_programs_wait_for_it(tmp_path, prepare, forked):
    """A library that starts a thread then costs the forks, and no program."""
    holder = subprocess.Popen(
        [sys.executable, "-c", PREPARED.format(prepare=prepare), str(tmp_path)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        interpreter = holder.stdout.readline().strip()
        done = run(interpreter, "-c", "import sys; print('wave' in sys.modules)")
        assert (done.returncode, done.stdout) == (0, f"{forked}\n")
        assert holder.stdout.readline() == "[]\n"  # the process itself did not wait
    finally:
        holder.kill()
        holder.wait()


def test_options_that_have_an_argument_are_the_interpreters(holder):
    assert "usage" in run(holder[1], "-m", "json.tool", "--help").stdout
    code = "import warnings; warnings.warn('heard')"
    assert run(holder[1], "-W", "error", "-c", code).returncode == 1


def test_a_fork_collects_garbage_as_an_interpreter_does(holder):
    code = "import gc; print(gc.get_threshold())"
    expected = run(sys.executable, "-c", code).stdout
    assert run(holder[1], "-c", code).stdout == expected
