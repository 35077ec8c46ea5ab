"""Sixteen processes log to the SQLite store at once; everything is there afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tensorbench.core import tracking
from tensorbench.core.tracking import Store

INTERPRETERS, FORKS, RUNS, STEPS = 4, 4, 2, 150

# Four interpreters fork four workers each after the (slow) import of MLflow and before any connection; all sixteen wait
# for the same moment. They share one experiment, which none of them finds in place.
WORKERS = """
import os, sys, time
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from tensorbench.core import tracking

uri, folder, interpreter, forks, runs, steps = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])

def work(worker):
    (folder / f"{worker}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    lost = 0
    for k in range(runs):
        record = f"{worker}-{k}"
        artifact = folder / f"{record}.txt"
        artifact.write_text(record)
        tags = {"method": f"m{k}", "dataset": "surface", "scale": "desk", "seed": worker, "record": record}
        live = tracking.RunLog.start(uri, "core/crowd", record, tags, {"method.rank": worker})
        for step in range(steps):
            live.log({"loss": worker + step / 1000, "error": k + step / 1000}, step)
        live.finish({"test_rmse": worker + k / 10}, [artifact])
        lost += live.lost
    return lost

children = []
for fork in range(forks):
    child = os.fork()
    if child == 0:
        try:
            os._exit(work(interpreter * forks + fork))
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(99)
    children.append(child)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = tracking.default_uri(tmp_path / "results")
    tracking.initialise(found, tmp_path / "results")
    return found


def test_sixteen_processes_at_once_lose_nothing(uri: str, tmp_path: Path) -> None:
    interpreters = [
        subprocess.Popen(
            [sys.executable, "-c", WORKERS, uri, str(tmp_path), *map(str, (index, FORKS, RUNS, STEPS))],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(INTERPRETERS)
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("*.ready"))) < INTERPRETERS * FORKS and time.monotonic() < deadline:
            time.sleep(0.05)
        (tmp_path / "go").touch()
        output = [process.communicate(timeout=180)[0] for process in interpreters]
    finally:
        for process in interpreters:
            process.kill()
    assert "locked" not in "".join(output).lower()
    assert [process.returncode for process in interpreters] == [0] * INTERPRETERS, "".join(output)

    store = Store.open(uri)
    runs = {run.info.run_name: run for run in store.runs(store.experiment("core/crowd"))}
    assert runs.keys() == {f"{worker}-{k}" for worker in range(INTERPRETERS * FORKS) for k in range(RUNS)}
    for name, run in runs.items():
        worker, k = map(int, name.split("-"))
        assert run.info.status == "FINISHED"
        assert run.data.tags["current"] == "true"
        assert run.data.params == {"method.rank": str(worker)}
        assert run.data.metrics["test_rmse"] == worker + k / 10
        for metric, base in (("loss", worker), ("error", k)):
            points = store.client.get_metric_history(run.info.run_id, metric)
            assert {point.step: point.value for point in points} == {step: base + step / 1000 for step in range(STEPS)}
            assert len(points) == STEPS
        artifact = Path(run.info.artifact_uri.removeprefix("file://")) / f"{name}.txt"
        assert artifact.read_text() == name
