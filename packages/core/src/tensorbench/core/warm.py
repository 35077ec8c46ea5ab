"""Jobs forked from a process that has imported the heavy libraries once.

Importing torch, MLflow, pandas and matplotlib costs every job about three CPU seconds, and a paper is hundreds of jobs.
Where Snakemake runs jobs on its own machine it starts one warm process (:func:`keep_warm`), which imports libraries
and nothing of ours; ``python -m tensorbench.core.warm run ...`` then asks it for a fork that becomes
``python -m tensorbench.core.run ...``, with the caller's environment (but for what libraries read of it when they are
imported), folder, output and exit status. The fork dies with its caller, and a signal to the caller reaches it. Without
a warm process (on a cluster, from a shell, where forking is not safe), with one of another Python, or when it fails,
the same command starts a Python of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

ADDRESS = "TENSORBENCH_WARM"  # the environment variable that names the warm process's socket
PYTHON = "TENSORBENCH_WARM_PYTHON"  # and the one that says whose libraries it has
_START_SECONDS = 60.0  # until a fork has begun, the import of the libraries included
_POLL_SECONDS = 1.0
_BEGUN = b"\x01"
_original: list[str] | None = None  # in a fork: the command line that would have started it


# ------------------------------------------------------------------ the caller


def main(argv: Sequence[str]) -> int:
    """Run ``python -m tensorbench.core.<argv[0]> <argv[1:]>`` as a fork of the warm process, or as a process."""
    if len(argv) < 1:
        print("usage: python -m tensorbench.core.warm run|report|paper ...", file=sys.stderr)
        return 2
    address = os.environ.get(ADDRESS)
    line = _begin(address, argv) if address and os.environ.get(PYTHON) == _python() else None
    if line is None:
        os.execv(sys.executable, _cold(argv))

    def forward(number: int, frame: FrameType | None) -> None:
        line.sendall(bytes([number]))

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background job ignores Ctrl-C
            signal.signal(number, forward)
    answer = b""
    with contextlib.suppress(OSError):
        answer = line.recv(4)
    if len(answer) < 4:
        print(f"the process that ran {' '.join(argv)} is gone", file=sys.stderr)
        return 1
    status = int.from_bytes(answer, "big", signed=True)
    return 128 - status if status < 0 else status  # as a shell says it: 137 for a process that was killed


def _begin(address: str, argv: Sequence[str]) -> socket.socket | None:
    """The line to a fork that has begun, or None: nobody listens, or the warm process fails before it forks."""
    request = {"argv": list(argv), "cwd": os.getcwd(), "environment": dict(os.environ)}
    message = json.dumps(request).encode()
    line = socket.socket(socket.AF_UNIX)
    try:
        line.settimeout(_START_SECONDS)
        line.connect(address)
        # The length goes with the descriptors: ancillary data belongs to the first byte that is received.
        socket.send_fds(line, [len(message).to_bytes(8, "big")], [0, 1, 2])
        line.sendall(message)
        if line.recv(1) == _BEGUN:
            line.settimeout(None)
            return line
    except OSError:
        pass
    line.close()  # a fork that begins after all finds nobody there and ends at once
    return None


def _python() -> str:
    """Whose libraries an import finds: a job of another environment must not get those of Snakemake's."""
    return os.pathsep.join([sys.prefix, os.environ.get("PYTHONPATH", "")])


def _cold(argv: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", f"tensorbench.core.{argv[0]}", *argv[1:]]


def start_over_if_warm() -> None:
    """In a fork: become a new Python process instead, for work that needs its libraries loaded its own way."""
    if _original is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, _cold(_original))


# ------------------------------------------------------------------ the warm process


def keep_warm(libraries: Sequence[str]) -> None:
    """Start the warm process of this process (which it does not outlive) and tell children where it is."""
    if ADDRESS in os.environ or sys.platform != "linux":  # elsewhere libraries do not promise to survive a fork
        return
    address = Path(tempfile.mkdtemp(prefix="tensorbench-")) / "warm"
    if len(os.fsencode(address)) > 100:  # a socket's path has at most 107 bytes
        address.parent.rmdir()
        address = Path(tempfile.mkdtemp(prefix="tensorbench-", dir="/tmp")) / "warm"
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[variable] = "1"  # a fork keeps the threads' bookkeeping but not the threads
    command = [sys.executable, "-m", "tensorbench.core.warm", "--serve", str(address), str(os.getpid()), *libraries]
    # A session of its own: Ctrl-C reaches jobs through their callers, once.
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    if process.stdout.readline():  # it listens now; imports come after
        os.environ[ADDRESS], os.environ[PYTHON] = str(address), _python()


def serve(address: Path, parent: int, libraries: Sequence[str]) -> list[str] | None:
    """Fork for whoever asks, while ``parent`` lives. Returns in the forks, with what to run; None at the end."""
    server = os.getpid()
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen(256)
            print("listening", flush=True)
            _warm_up(libraries)
            listener.settimeout(_POLL_SECONDS)
            while os.getppid() == parent:
                _reap()
                try:
                    line, _ = listener.accept()
                except TimeoutError:
                    continue
                if os.fork() == 0:
                    listener.close()
                    line.settimeout(None)
                    return _mind(line)
                line.close()
    finally:
        if os.getpid() == server:
            address.unlink(missing_ok=True)
            address.parent.rmdir()
    return None


def _warm_up(libraries: Sequence[str]) -> None:
    # The standard streams belong to nobody here: a caller's own are given to its fork.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    for library in libraries:
        # Whatever is wrong with a library (not installed, a shared object missing), a job that needs it will say so.
        with contextlib.suppress(Exception):
            importlib.import_module(library)
    gc.freeze()  # collections in a fork would copy every page of what the libraries hold


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _mind(line: socket.socket) -> list[str] | None:
    """Fork the job and stay beside it: pass signals on, report how it ended, end it when its caller is gone."""
    head, streams, _, _ = socket.recv_fds(line, 8, 3)
    if len(head) < 8 or len(streams) < 3:
        os._exit(1)
    wanted, message = int.from_bytes(head, "big"), b""
    while len(message) < wanted:
        part = line.recv(wanted - len(message))
        if not part:
            os._exit(1)
        message += part
    job = os.fork()
    if job == 0:
        line.close()
        return _become(json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(OSError):
        line.sendall(_BEGUN)
    with selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(job)
        selector.register(line, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if ended in ready:
                break
            order = _received(line)
            if order:
                os.kill(job, order[0])
            else:
                selector.unregister(line)
                os.kill(job, signal.SIGKILL)  # nobody waits for it: as if the caller had been it
    status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    with contextlib.suppress(OSError):
        line.sendall(status.to_bytes(4, "big", signed=True))
    os._exit(0)


def _received(line: socket.socket) -> bytes:
    try:
        return line.recv(1)
    except OSError:  # reset: as gone as closed
        return b""


def _become(request: dict, streams: Sequence[int]) -> list[str]:
    for stream, given in enumerate(streams):
        os.dup2(given, stream)
        os.close(given)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the warm process has inherited
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request["argv"]


def leave(end: SystemExit) -> None:
    """End a fork as ``end`` asks, without taking the libraries' modules apart, which costs half a CPU second.

    As the standard library ends its own forks (multiprocessing): threads are joined, what is registered with atexit
    runs, and the streams are flushed. An exit status that is a message is left to Python.
    """
    if not (end.code is None or isinstance(end.code, int)):
        raise end
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads
            stream.flush()
    os._exit((end.code or 0) & 0xFF)


if __name__ == "__main__":
    import runpy

    if sys.argv[1:2] == ["--serve"]:
        asked = serve(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
        if asked is None:
            sys.exit(0)
        # This module runs as __main__ here; the job must find what it says of itself under its own name.
        from tensorbench.core import warm

        warm._original = asked
        sys.argv = [f"tensorbench.core.{asked[0]}", *asked[1:]]
        try:
            runpy.run_module(f"tensorbench.core.{asked[0]}", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            warm.leave(end)
    else:
        sys.exit(main(sys.argv[1:]))
