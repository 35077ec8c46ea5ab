"""Jobs forked from the warm process: they are like processes of their own, in what they compute and in how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tensorbench.core import record, warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere jobs are processes of their own")
PARENT = """
import os, sys, time
from tensorbench.core import warm
warm.keep_warm(["numpy", "no_such_library", *sys.argv[1:]])
print(os.environ[warm.ADDRESS], flush=True)
time.sleep(600)
"""


@pytest.fixture
def parent(request, tmp_path) -> Iterator[subprocess.Popen[str]]:
    """A process that keeps one warm, which imports what ``request.param`` says, a text of Python, too."""
    library = getattr(request, "param", None)
    if library:
        (tmp_path / "odd_library.py").write_text(library)
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, *(["odd_library"] if library else [])],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
    )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def address(parent) -> str:
    return parent.stdout.readline().strip()


def job(toy, address: str, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tensorbench.core.warm", "run", "toy/line", "toy_line", "mean_only", *arguments],
        cwd=toy.root,
        env=toy.environment(**{warm.ADDRESS: address, warm.PYTHON: python(toy)} | extra),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )


def python(toy) -> str:
    """What a warm process of the toy's own Python would say of itself."""
    return os.pathsep.join([sys.prefix, toy.environment()["PYTHONPATH"]])


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never said")


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def said_pid(toy) -> int:
    return int((toy.root / "pid").read_text())


@pytest.fixture
def tells_pid(toy, edit):
    edit(toy.module, "def run(run):\n", "def run(run):\n    open('pid', 'w').write(str(os.getpid()))\n")
    return toy


def test_a_fork_writes_the_record_that_a_process_writes(tells_pid, address):
    toy = tells_pid
    process = job(toy, address)
    assert process.wait(timeout=60) == 0, process.stderr.read()
    assert said_pid(toy) != process.pid, "no fork: the job ran as a process of its own"
    forked = record.read_rows(toy.record())
    toy.record().unlink()
    toy.run()
    alone = record.read_rows(toy.record())
    assert [row["metrics"]["rmse"] for row in forked] == [row["metrics"]["rmse"] for row in alone]
    assert [row["params"] for row in forked] == [row["params"] for row in alone]
    assert [row["provenance"]["versions"] for row in forked] == [row["provenance"]["versions"] for row in alone]


def test_environment_output_and_exit_status_are_the_callers(toy, address):
    process = job(toy, address, TOY_FAIL="mean_only")
    said = process.stderr.read()
    assert process.wait(timeout=60) == 1 and "the toy was told to fail" in said
    process = job(toy, address, "--scale", "dekk")
    said = process.stderr.read()
    assert process.wait(timeout=60) == 2 and "did you mean 'desk'" in said
    process = job(toy, address)  # another job's failure is nobody else's
    assert process.wait(timeout=60) == 0 and toy.record().exists()


def test_a_fork_ends_its_threads_and_what_is_registered_before_it_leaves(toy, edit, address):
    edit(
        toy.module,
        "def run(run):\n",
        "def run(run):\n    import atexit, threading\n"
        "    def late():\n        time.sleep(1.0); open('late', 'w').write('thread')\n"
        "    if run.seed == 0:\n"
        "        threading.Thread(target=late).start()\n"
        "        atexit.register(lambda: open('last', 'w').write(open('late').read()))\n"
        "        sys.stderr = open(sys.stderr.fileno(), 'w', buffering=10_000, closefd=False)\n"
        "        print('held back', file=sys.stderr)\n",
    )
    edit(toy.module, "import os, time", "import os, sys, time")
    process = job(toy, address)
    assert "held back" in process.stderr.read() and process.wait(timeout=60) == 0
    assert (toy.root / "last").read_text() == "thread"


@pytest.mark.parametrize("threads", [1, 2])
def test_work_on_several_threads_starts_a_python_of_its_own(toy, edit, address, threads):
    edit(toy.module, "def run(run):\n", "def run(run):\n    open('started', 'w').write(' '.join(sys.orig_argv))\n")
    edit(toy.module, "import os, time", "import os, sys, time")
    edit(toy.config, "seeds: 3", f"seeds: 3\nexclusive: true\nthreads: {threads}")
    assert job(toy, address).wait(timeout=60) == 0 and toy.record().exists()
    assert ("--serve" in (toy.root / "started").read_text()) == (threads == 1)


def test_a_caller_that_is_killed_takes_its_fork_along(tells_pid, address):
    toy = tells_pid
    process = job(toy, address, TOY_SLEEP="60")
    deadline = time.monotonic() + 60
    while not (toy.root / "pid").exists() or not (toy.root / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    while not gone(said_pid(toy)):
        assert time.monotonic() < deadline, "the fork lives on"
        time.sleep(0.05)
    assert not toy.record().exists() and toy.record(suffix=".failed.json").exists()


def test_an_interrupt_reaches_the_fork(toy, address):
    process = job(toy, address, TOY_SLEEP="2")
    wait_for(process, "seed 0: done")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    # KeyboardInterrupt, not a kill: the job took back its note.
    assert not toy.record().exists() and not toy.record(suffix=".failed.json").exists()


def test_a_fork_that_is_killed_is_told_by_its_status(toy, edit, address):
    edit(toy.module, "def run(run):\n", "def run(run):\n    os.kill(os.getpid(), 9)\n")
    assert job(toy, address).wait(timeout=60) == 137
    assert "ended without a word" in toy.record(suffix=".failed.json").read_text()


def test_the_warm_process_ends_with_its_parent_and_jobs_go_on_without_it(toy, parent, address):
    (server,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    server.wait(timeout=30)
    assert not Path(address).parent.exists()
    process = job(toy, address)
    assert process.wait(timeout=60) == 0 and toy.record().exists()


@pytest.mark.parametrize("parent", ["raise OSError('libsomething.so is not there')"], indirect=True)
def test_a_library_that_cannot_be_imported_costs_only_its_warmth(tells_pid, address):
    process = job(tells_pid, address)
    assert process.wait(timeout=60) == 0 and said_pid(tells_pid) != process.pid


@pytest.mark.parametrize("parent", ["import time\ntime.sleep(600)"], indirect=True)
def test_a_caller_whose_warm_process_dies_before_the_fork_starts_by_itself(tells_pid, parent, address):
    process = job(tells_pid, address)  # waits for the libraries
    time.sleep(1.0)
    assert not (tells_pid.root / "pid").exists()
    (server,) = psutil.Process(parent.pid).children()
    server.kill()
    assert process.wait(timeout=60) == 0 and said_pid(tells_pid) == process.pid


def test_another_pythons_job_is_not_served(tells_pid, address):
    process = job(tells_pid, address, **{warm.PYTHON: "/another/environment:"})
    assert process.wait(timeout=60) == 0 and said_pid(tells_pid) == process.pid


def test_a_long_temporary_folder_is_no_obstacle(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60) / ("y" * 60)
    long.mkdir(parents=True)
    code = PARENT.replace("time.sleep(600)", "")
    environment = {**os.environ, "TMPDIR": str(long)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert len(done.stdout.strip()) < 100 and not any(long.iterdir())


def test_one_warm_process_for_a_workflow_in_a_workflow(monkeypatch):
    monkeypatch.setenv(warm.ADDRESS, "/somewhere")
    before = {child.pid for child in psutil.Process().children()}
    warm.keep_warm([])
    assert {child.pid for child in psutil.Process().children()} == before
    assert os.environ[warm.ADDRESS] == "/somewhere"
