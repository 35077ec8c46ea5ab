"""Tracking against an MLflow server over PostgreSQL, and what a run does when that server is down or dies."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tensorbench.core import tracking
from tensorbench.core.tracking import RunLog, Store, run_log

EXPERIMENT = "decomposition/completion"
BINARIES = next((path for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def missing() -> str | None:
    """Why these tests cannot run here."""
    if BINARIES is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if importlib.util.find_spec("psycopg2") is None:
        return "psycopg2 is not installed (pip install psycopg2-binary)"
    if os.geteuid() == 0 and (
        shutil.which("runuser") is None or "postgres" not in {user.pw_name for user in pwd.getpwall()}
    ):
        return "PostgreSQL does not run as root, and there is no user postgres to run it"
    return None


pytestmark = [
    pytest.mark.postgres,
    pytest.mark.xdist_group("postgres"),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


class Cluster:
    """A throw-away PostgreSQL on loopback; as root it runs as the user postgres, which refuses to run as root."""

    def __init__(self) -> None:
        assert BINARIES is not None
        self.port = free_port()
        self.uri = f"postgresql://postgres@127.0.0.1:{self.port}/mlflow"
        self.folder = Path(tempfile.mkdtemp(prefix="tensorbench-postgres-"))
        self.prefix: list[str] = []
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self.prefix = ["runuser", "-u", "postgres", "--"]

    def start(self) -> None:
        self._call(
            "initdb", "-D", "data", "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"
        )
        options = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories= -c fsync=off"
        self._call("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
        self._call("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "mlflow")

    def _call(self, program: str, *arguments: str) -> None:
        assert BINARIES is not None
        with open(os.devnull, "w") as nowhere:  # a pipe would be held open by the server
            subprocess.run(
                [*self.prefix, str(BINARIES / program), *arguments], cwd=self.folder, stdout=nowhere, check=True
            )

    def stop(self) -> None:
        try:
            if (self.folder / "data" / "postmaster.pid").exists():
                self._call("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class Server:
    """``mlflow server`` on loopback, that can be killed and started again on the same port."""

    def __init__(self, database: str, folder: Path) -> None:
        self.database, self.folder, self.port = database, folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = ["--backend-store-uri", self.database, "--artifacts-destination", str(self.folder / "artifacts"),
                     "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]  # fmt: skip
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"} | quiet
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *arguments],
                cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"mlflow server did not start:\n{(self.folder / 'server.log').read_text()[-3000:]}")

    def kill(self) -> None:
        """Pull the plug: the server and its workers, at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    cluster = Cluster()
    server = Server(cluster.uri, tmp_path_factory.mktemp("server"))
    try:
        cluster.start()
        server.start()
        yield server
    finally:
        server.kill()
        cluster.stop()


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(run_log, "_warned", set())
    caplog.set_level(logging.WARNING, logger="tensorbench")


def row(record: str, artifact: Path, seed: int = 0) -> dict[str, Any]:
    return {
        "record": record, "package": "decomposition", "experiment": "completion", "dataset": "surface",
        "method": "funbat", "seed": seed, "scale": "desk", "trial": None, "paper": "funbat", "config_hash": "abc",
        "started": "2026-01-02T03:04:05+00:00", "seconds": 2.5, "metrics": {"test_rmse": 0.5},
        "history": [("train_rmse", float(step), 1 / (step + 1)) for step in range(20)],
        "params": {"method": {"rank": 3}}, "provenance": {"commit": "c0ffee"}, "artifacts": [artifact],
    }  # fmt: skip


def start(uri: str, given: dict[str, Any]) -> RunLog:
    keys = ("paper", "method", "dataset", "scale", "seed", "record", "config_hash")
    name = f"funbat · surface · seed {given['seed']}"
    return RunLog.start(uri, EXPERIMENT, name, {key: given[key] for key in keys}, {"method.rank": 3})


def live(uri: str, given: dict[str, Any]) -> RunLog:
    run = start(uri, given)
    for metric, step, value in given["history"]:
        run.log({metric: value}, step)
    run.log(given["metrics"])
    run.finish({}, given["artifacts"])
    return run


def check(uri: str, given: dict[str, Any]) -> None:
    """The store holds exactly one FINISHED run of the record, complete."""
    store = Store.open(uri)
    runs = [run for run in store.runs(store.experiment(EXPERIMENT), f"tags.record = '{given['record']}'")]
    (run,) = [run for run in runs if run.info.status == "FINISHED"]
    points = store.client.get_metric_history(run.info.run_id, "train_rmse")
    assert sorted((p.key, float(p.step), p.value) for p in points) == given["history"]
    assert run.data.metrics["test_rmse"] == given["metrics"]["test_rmse"]
    assert run.data.params == {"method.rank": "3"}
    assert run.data.tags["current"] == "true"
    assert [file.path for file in store.client.list_artifacts(run.info.run_id)] == [given["artifacts"][0].name]
    assert {other.info.status for other in runs if other is not run} <= {"KILLED"}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("tensorbench") and r.levelno >= logging.WARNING]


def test_runs_over_http_at_once(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert tracking.initialise(server.uri, tmp_path)
    artifact = tmp_path / "prediction.npy"
    artifact.write_bytes(b"\0" * 100_000)
    rows = [row(f"http-{seed}", artifact, seed=100 + seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        lost = [run.lost for run in pool.map(lambda given: live(server.uri, given), rows)]
    assert lost == [False] * 8, warnings(caplog)
    for given in rows:
        check(server.uri, given)
    assert tracking.sync(server.uri, rows) == {"logged": 0, "present": 8, "killed": 0, "lost": 0}


def test_nan_failure_and_report_over_http(server: Server, tmp_path: Path) -> None:
    run = start(server.uri, row("nan", tmp_path, seed=200))
    run.log({"loss": math.nan, "peak": math.inf}, 0)
    run.fail("Traceback\nValueError: no")
    store = Store.open(server.uri)
    (found,) = store.runs(store.experiment(EXPERIMENT), "tags.record = 'nan'")
    assert found.info.status == "FAILED"
    assert math.isnan(found.data.metrics["loss"])
    assert found.data.metrics["peak"] == sys.float_info.max
    assert [file.path for file in store.client.list_artifacts(found.info.run_id)] == ["traceback.txt"]
    figure = tmp_path / "accuracy.svg"
    figure.write_text("<svg/>")
    assert tracking.log_report(server.uri, EXPERIMENT, "desk", [figure], [{"claim": "a.b", "verdict": "reproduced"}])


def test_a_server_that_dies_costs_a_warning_and_sync_logs_what_is_missing(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = tmp_path / "prediction.npy"
    artifact.write_bytes(b"123")
    rows = [row(f"death-{k}", artifact, seed=300 + k) for k in range(3)]
    assert not live(server.uri, rows[0]).lost

    run = start(server.uri, rows[1])
    run.log({"train_rmse": 1.0}, 0)
    time.sleep(run_log.FLUSH_SECONDS + 0.5)  # some of it is in the store
    server.kill()
    began = time.monotonic()
    for metric, step, value in rows[1]["history"][1:]:
        run.log({metric: value}, step)
    run.finish({"test_rmse": 0.5}, [artifact])
    assert run.lost
    assert time.monotonic() - began < 20
    assert len(warnings(caplog)) == 1, warnings(caplog)

    began = time.monotonic()
    down = live(server.uri, rows[2])  # down from the start
    assert down.lost
    assert time.monotonic() - began < 5
    assert tracking.sync(server.uri, rows)["lost"] == 3

    server.start()
    assert tracking.sync(server.uri, rows) == {"logged": 2, "present": 1, "killed": 1, "lost": 0}
    assert tracking.sync(server.uri, rows) == {"logged": 0, "present": 3, "killed": 0, "lost": 0}
    for given in rows:
        check(server.uri, given)
    again = live(server.uri, row("death-after", artifact, seed=400))
    assert not again.lost
