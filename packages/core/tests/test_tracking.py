"""Tracking in one process: what a run leaves in MLflow, steps, failures of the store, sync, reports."""

from __future__ import annotations

import logging
import math
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from tensorbench.core import tracking
from tensorbench.core.tracking import RunLog, Store, run_log, store
from tensorbench.core.tracking.points import COMPANION, Point, Points
from tensorbench.core.tracking.store import shown

EXPERIMENT = "decomposition/completion"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    assert tracking.initialise(f"sqlite:///{folder / 'mlflow.db'}", folder)
    return folder / "mlflow.db"


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(run_log, "_warned", set())
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tracking.default_uri(tmp_path)


def tags(record: str = "r0", **changes: object) -> dict[str, object]:
    return {"paper": "funbat", "method": "funbat", "dataset": "surface", "scale": "desk", "seed": 0, "trial": None,
            "commit": "c0ffee", "config_hash": "abc", "record": record} | changes  # fmt: skip


def start(uri: str, record: str = "r0", live: bool = False, **changes: object) -> RunLog:
    return RunLog.start(uri, EXPERIMENT, f"run {record}", tags(record, **changes), {"method.rank": 3}, live=live)


def runs(uri: str) -> dict[str, Any]:
    """The runs of the experiment by their record."""
    opened = Store.open(uri)
    return {run.data.tags.get("record", run.info.run_name): run for run in opened.runs(opened.experiment(EXPERIMENT))}


def history(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    points = Store.open(uri).client.get_metric_history(run.info.run_id, metric)
    return [(p.step, p.value) for p in sorted(points, key=lambda p: (p.step, p.timestamp))]


def files(run: Any) -> set[str]:
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def row(record: str = "r0", **changes: object) -> dict[str, Any]:
    return {
        "record": record, "package": "decomposition", "experiment": "completion", "dataset": "surface",
        "method": "funbat", "seed": 0, "scale": "desk", "trial": None, "paper": "funbat", "config_hash": "abc",
        "started": "2026-01-02T03:04:05+00:00", "seconds": 2.5, "metrics": {"test_rmse": 0.5, "train_rmse": 0.25},
        "history": [("train_rmse", 0.0, 1.0), ("train_rmse", 1.0, 0.5), ("train_rmse", 2.0, 0.25)],
        "params": {"method": {"rank": 3}}, "provenance": {"commit": "c0ffee"}, "artifacts": [],
    } | changes  # fmt: skip


# --- the store ------------------------------------------------------------------------------------------------------


def test_importing_tracking_imports_nothing_heavy() -> None:
    heavy = {"mlflow", "torch", "numpy", "requests"}
    code = f"import sys, tensorbench.core.tracking; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_the_store_is_sqlite_under_results_unless_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking.default_uri(tmp_path) == "http://tracking:5000"


def test_a_password_is_not_shown() -> None:
    assert shown("https://ada:secret@tracking:5000/x") == "https://…@tracking:5000/x"


def test_two_first_users_at_once_after_an_interrupted_one(tmp_path: Path) -> None:
    results = tmp_path / "results"
    uri = tracking.default_uri(results)
    results.mkdir()
    (results / ".mlflow.db.new").write_bytes(b"half a database")
    initialise = f"from tensorbench.core import tracking as t; print(t.initialise({uri!r}, {str(results)!r}))"
    run = (
        f"from tensorbench.core import tracking as t; live = t.RunLog.start({uri!r}, {EXPERIMENT!r}, 'first', "
        "{}, {}); live.finish(); print(not live.lost)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) for code in (initialise, run)
    ]
    assert [process.communicate(timeout=120) for process in both] == [("True\n", "")] * 2
    assert runs(uri)["first"].info.status == "FINISHED"
    before = (results / "mlflow.db").stat().st_mtime_ns
    assert tracking.initialise(uri, results)
    assert (results / "mlflow.db").stat().st_mtime_ns == before
    assert not list(results.glob(".mlflow*"))


def test_initialise_migrates_the_database_of_an_older_mlflow(tmp_path: Path) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from mlflow.store.db.base_sql_model import Base  # noqa: F401
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    engine = utils.create_sqlalchemy_engine(uri)
    InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(uri)
    head = ScriptDirectory.from_config(config).get_current_head()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, f"{head}-1")
    engine.dispose()
    assert tracking.initialise(uri, tmp_path)
    live = start(uri)
    live.finish()
    assert not live.lost


# --- a run ----------------------------------------------------------------------------------------------------------


def test_a_finished_run_has_everything(uri: str, tmp_path: Path) -> None:
    figure, prediction = tmp_path / "figure.svg", tmp_path / "prediction.npy"
    figure.write_text("<svg/>")
    prediction.write_bytes(b"123")
    live = start(uri, live=True)
    for step in range(2500):  # more than two batches
        live.log({"train_rmse": 1 / (step + 1)}, step)
    live.artifact(figure)
    live.log({"test_rmse": 0.5, "exact": True})
    live.finish({"run_seconds": 2.0}, [prediction])
    run = runs(uri)["r0"]
    assert not live.lost
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run r0"
    assert run.data.metrics == {"train_rmse": 1 / 2500, "test_rmse": 0.5, "exact": 1.0, "run_seconds": 2.0}
    assert history(uri, run, "train_rmse") == [(step, 1 / (step + 1)) for step in range(2500)]
    assert run.data.params == {"method.rank": "3"}
    expected = {key: str(value) for key, value in tags().items() if value is not None} | {"current": "true"}
    assert expected.items() <= run.data.tags.items()
    assert "trial" not in run.data.tags
    assert files(run) == {"figure.svg", "prediction.npy"}


def test_metrics_are_in_the_store_while_the_run_works(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "FLUSH_SECONDS", 0.05)
    live = start(uri, live=True)
    live.log({"loss": 3.0}, 1)
    deadline = time.monotonic() + 20
    while not runs(uri)["r0"].data.metrics and time.monotonic() < deadline:
        time.sleep(0.05)
    run = runs(uri)["r0"]
    assert (run.info.status, run.data.metrics) == ("RUNNING", {"loss": 3.0})
    live.finish()


def test_nan_and_infinity_survive(uri: str) -> None:
    live = start(uri)
    for step, value in enumerate([1.0, math.nan, math.inf]):
        live.log({"loss": value}, step)
    live.log({"nan": math.nan, "inf": math.inf, "minus": -math.inf})
    live.finish()
    run = runs(uri)["r0"]
    assert [value if value == value else "nan" for _, value in history(uri, run, "loss")] == [
        1.0,
        "nan",
        sys.float_info.max,
    ]
    assert math.isnan(run.data.metrics["nan"])
    assert (run.data.metrics["inf"], run.data.metrics["minus"]) == (sys.float_info.max, -sys.float_info.max)


def test_only_the_newest_run_of_a_kind_is_current(uri: str) -> None:
    changed = {"seed": 1, "trial": 0, "scale": "smoke", "method": "cp", "dataset": "air"}
    others = [(key, {key: value}) for key, value in changed.items()]
    for record, changes in [("old", {}), *others, ("new", {})]:
        start(uri, record, **changes).finish()
    start(uri, "failed").fail("Traceback\nValueError: no")
    current = {record for record, run in runs(uri).items() if run.data.tags["current"] == "true"}
    assert current == {"seed", "trial", "scale", "method", "dataset", "new"}


def test_a_failed_run_carries_its_traceback(uri: str) -> None:
    live = start(uri, live=True)
    live.log({"loss": 1.0}, 3)
    live.fail(
        "Traceback (most recent call last):\n" + "  deep\n" * 5000 + "ValueError: rank 12 exceeds the smallest mode\n"
    )
    run = runs(uri)["r0"]
    assert run.info.status == "FAILED"
    assert run.data.metrics == {"loss": 1.0}
    assert run.data.tags["error"] == "ValueError: rank 12 exceeds the smallest mode"
    assert run.data.tags["traceback"].endswith(run.data.tags["error"])
    assert files(run) == {"traceback.txt"}


def test_the_run_of_a_killed_process_is_marked_by_its_successor(uri: str) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    opened = Store.open(uri)
    here = {"dead": f"{platform.node()} {gone.pid} 1700000000", "elsewhere": "otherhost 1 1700000000"}
    for record, process in here.items():
        labels = {key: value for key, value in tags(record).items() if value is not None}
        opened.create_run(opened.experiment(EXPERIMENT), record, {**labels, "process": process}, 1)
    living = start(uri, "living")
    start(uri, "new").finish()
    assert {record: run.info.status for record, run in runs(uri).items()} == {
        "dead": "KILLED", "elsewhere": "RUNNING", "living": "RUNNING", "new": "FINISHED",
    }  # fmt: skip
    living.finish()


def test_long_and_odd_values_are_cut_or_cleaned_not_refused(uri: str) -> None:
    live = RunLog.start(uri, EXPERIMENT, "odd", tags(note="x" * 20_000), {"p" * 300: "y" * 9000, "a=b": 1}, live=False)
    live.log({"error@50%": 1.0, "fit.seconds": 2.0})
    live.finish()
    run = runs(uri)["r0"]
    assert not live.lost
    assert run.data.metrics == {"error_50_": 1.0, "fit.seconds": 2.0}
    assert run.data.params == {"p" * 250: "y" * 6000, "a_b": "1"}


def test_a_missing_artifact_and_a_bad_value_are_warnings(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    live = start(uri)
    live.log({"loss": "high"})  # type: ignore[dict-item]
    live.finish({"loss": 1.0}, [Path("/nowhere/prediction.npy")])
    assert not live.lost
    assert runs(uri)["r0"].info.status == "FINISHED"
    assert "prediction.npy is not a readable file" in caplog.text
    assert "not logged" in caplog.text


# --- steps ----------------------------------------------------------------------------------------------------------

STEPS: dict[str, list[float]] = {
    "epochs": [0, 1, 2, 3],
    "sizes": [1000, 8000, 64000],
    "descending": [64, 8, 1],
    "negative": [-2, -1, 0],
    "budgets": [0.05, 0.1, 0.5, 1.0],
    "whole, then fractions": [0, 1, 1.5, 2, 2.5],
    "fractions, then whole": [0.5, 7, 1],
    "falling fractions": [0.5, 0.25, 0.125],
    "seconds": [1e-9, 3.25, 1e300],
    "not finite": [1, math.inf, 2],
}


def reconstruct(points: list[Point], metric: str) -> list[tuple[float, float]]:
    """Read back the real (step, value) pairs, as someone would in MLflow."""
    real = {point.step: point.value for point in points if point.key == metric + COMPANION}
    assert all(point.key in (metric, metric + COMPANION) for point in points)
    return [(real.get(point.step, float(point.step)), point.value) for point in points if point.key == metric]


def latest(points: list[Point], metric: str) -> float:
    """What MLflow shows as the metric's value: the greatest (step, time, value)."""
    return max((p.step, p.time, p.value) for p in points if p.key == metric)[2]


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
def test_real_steps_and_the_final_value_can_be_read_back(steps: list[float]) -> None:
    history = Points()
    values = [float(10 - k) for k in range(len(steps))]
    points = [p for step, value in zip(steps, values, strict=True) for p in history.add("loss", value, step, 1000)]
    assert reconstruct(points, "loss") == list(zip(map(float, steps), values, strict=True))
    assert all(isinstance(p.step, int) and -(2**63) <= p.step < 2**63 for p in points)
    points += history.add("loss", 3.5, None, 1000)
    assert latest(points, "loss") == 3.5
    assert history.add("loss", 3.5, None, 2000) == []


@pytest.mark.parametrize("name", ["epochs", "sizes", "descending", "negative"])
def test_whole_steps_are_mlflow_steps_with_no_companion(name: str) -> None:
    history = Points()
    points = [p for step in STEPS[name] for p in history.add("loss", 1.0, step, 1000)]
    assert [(p.key, p.step) for p in points] == [("loss", step) for step in STEPS[name]]


def test_a_step_logged_twice_keeps_its_number() -> None:
    history = Points()
    points = [p for step in (0.5, 1.5, 0.5) for p in history.add("loss", 1.0, step, 1000)]
    assert [p.step for p in points if p.key == "loss"] == [0, 1, 0]


def test_fractional_steps_in_the_store(uri: str) -> None:
    live = start(uri)
    for budget, value in [(0.05, 3.0), (0.1, 2.0), (0.2, 1.0)]:
        live.log({"error": value}, budget)
    live.finish()
    run = runs(uri)["r0"]
    assert history(uri, run, "error") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert history(uri, run, "error.step") == [(0, 0.05), (1, 0.1), (2, 0.2)]


# --- a store that fails ---------------------------------------------------------------------------------------------


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def broken_server() -> Iterator[str]:
    """Answers everything with 500."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def _refused(request: pytest.FixtureRequest, folder: Path) -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def _corrupt(request: pytest.FixtureRequest, folder: Path) -> str:
    (folder / "mlflow.db").write_bytes(b"not a database " * 1000)
    return tracking.default_uri(folder)


def _no_folder(request: pytest.FixtureRequest, folder: Path) -> str:
    (folder / "results").write_text("a file where the results folder should be")
    return tracking.default_uri(folder / "results")


BROKEN: dict[str, Callable[[pytest.FixtureRequest, Path], str]] = {
    "refused": _refused,
    "silent": lambda request, folder: request.getfixturevalue("silent_server"),
    "answers 500": lambda request, folder: request.getfixturevalue("broken_server"),
    "no such host": lambda request, folder: "http://tracking.invalid:5000",
    "corrupt database": _corrupt,
    "no folder": _no_folder,
    "unknown scheme": lambda request, folder: "nonsense://store",
    "file store": lambda request, folder: f"file://{folder}/mlruns",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_store_costs_a_warning_and_seconds_never_the_run(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(run_log, "_warned", set())
    monkeypatch.setattr(store, "PROBE_SECONDS", 1.0)
    caplog.set_level(logging.WARNING, logger="tensorbench")
    uri = BROKEN[name](request, tmp_path)
    artifact = tmp_path / "a.txt"
    artifact.write_text("x")
    began = time.monotonic()
    for seed in range(3):
        live = start(uri, f"r{seed}", live=True, seed=seed)
        live.log({"loss": 1.0}, 1)
        live.artifact(artifact)
        live.finish({"run_seconds": 1.0}, [artifact]) if seed else live.fail("Traceback\nValueError: no")
        assert live.lost
    assert time.monotonic() - began < 20
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("tensorbench")]
    assert len(warnings) == 1, warnings
    assert "cannot be used" in warnings[0]
    assert "snakemake sync" in warnings[0]
    assert tracking.sync(uri, [row()]) == {"logged": 0, "present": 0, "killed": 0, "lost": 1}
    assert not tracking.log_report(uri, EXPERIMENT, "desk", [artifact], [])


def test_initialise_warns_about_a_server_that_is_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert tracking.initialise("http://127.0.0.1:9", tmp_path) is False
    assert "snakemake sync" in caplog.text


@pytest.mark.parametrize("call", ["batch", "close", "upload"])
def test_a_store_that_dies_during_the_run_is_told_once_and_sync_repairs_it(
    call: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = tmp_path / "prediction.npy"
    artifact.write_text("x")
    live = start(uri)
    with monkeypatch.context() as broken:

        def dies(self: Store, *arguments: object, **named: object) -> None:
            raise ConnectionError("the server hung up")

        broken.setattr(Store, call, dies)
        live.log({"train_rmse": 1.0}, 0)
        live.finish({"test_rmse": 0.5}, [artifact])
    assert live.lost
    assert sum("hung up" in record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING) == 1
    rows = [row(artifacts=[artifact])]
    assert tracking.sync(uri, rows) == {"logged": 1, "present": 0, "killed": 1, "lost": 0}
    assert tracking.sync(uri, rows) == {"logged": 0, "present": 1, "killed": 0, "lost": 0}
    opened = Store.open(uri)
    found = {run.info.status: run for run in opened.runs(opened.experiment(EXPERIMENT))}
    assert found.keys() == {"FINISHED", "KILLED"}
    assert (found["FINISHED"].data.tags["current"], found["KILLED"].data.tags["current"]) == ("true", "false")
    assert files(found["FINISHED"]) == {"prediction.npy"}


def test_an_empty_uri_logs_nowhere_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    live = start("")
    live.log({"loss": 1.0})
    live.finish()
    assert live.lost
    assert not caplog.records


# --- sync and report ------------------------------------------------------------------------------------------------


def test_a_synced_record_equals_a_live_run(uri: str) -> None:
    live = start(uri, "live")
    for _, step, value in row()["history"]:
        live.log({"train_rmse": value}, step)
    live.log(row()["metrics"])
    live.finish()
    tracking.sync(uri, [row("synced", seed=0)])
    one, two = runs(uri)["live"], runs(uri)["synced"]
    assert two.data.metrics == one.data.metrics
    assert two.data.params == one.data.params
    assert history(uri, two, "train_rmse") == history(uri, one, "train_rmse")
    kept = {*tags(), "mlflow.source.name", "mlflow.source.git.commit"} - {"record", "trial"}
    assert {key: two.data.tags[key] for key in kept} == {key: one.data.tags[key] for key in kept}
    assert two.info.run_name == "funbat · surface · seed 0"
    assert (two.info.start_time, two.info.end_time) == (1767323045000, 1767323047500)
    assert (one.data.tags["current"], two.data.tags["current"]) == ("false", "true")


def test_sync_logs_exactly_what_is_missing(uri: str) -> None:
    rows = [row(f"r{k}", seed=k, experiment="a" if k % 2 else "b") for k in range(6)]
    assert tracking.sync(uri, rows[:3])["logged"] == 3
    assert tracking.sync(uri, rows) == {"logged": 3, "present": 3, "killed": 0, "lost": 0}
    assert tracking.sync(uri, iter([])) == {"logged": 0, "present": 0, "killed": 0, "lost": 0}


def test_sync_keeps_nan_and_odd_records(uri: str) -> None:
    odd = row(
        metrics={"test_rmse": math.nan}, history=[], params={}, provenance={}, seconds=math.nan, paper=None, trial=3
    )
    assert tracking.sync(uri, [odd])["logged"] == 1
    run = runs(uri)["r0"]
    assert math.isnan(run.data.metrics["test_rmse"])
    assert run.info.run_name == "funbat · surface · trial 3"


def test_a_report_replaces_its_predecessor(uri: str, tmp_path: Path) -> None:
    figure = tmp_path / "accuracy.svg"
    figure.write_text("<svg/>")
    claim = {
        "claim": "funbat.beats_discrete",
        "says": "lower | better",
        "measured": 0.7,
        "low": math.nan,
        "verdict": "reproduced",
    }
    start(uri).finish()
    for scale in ("desk", "desk", "smoke"):
        assert tracking.log_report(uri, EXPERIMENT, scale, [figure], [claim])
    opened = Store.open(uri)
    reports = [run for run in opened.runs(opened.experiment(EXPERIMENT)) if run.info.run_name.startswith("figures")]
    current = [run for run in reports if run.data.tags["current"] == "true"]
    assert len(reports) == 3
    assert sorted(run.info.run_name for run in current) == ["figures · desk", "figures · smoke"]
    assert files(current[0]) == {"figures/accuracy.svg", "claims.csv"}
    assert "| funbat.beats_discrete | lower \\| better |" in current[0].data.tags["mlflow.note.content"]
    assert runs(uri)["r0"].data.tags["current"] == "true"


def test_the_command_line_makes_the_store_and_syncs_records(uri: str, tmp_path: Path) -> None:
    from tensorbench.core import record
    from tensorbench.core.tracking.__main__ import main

    home = tmp_path / "desk" / "decomposition" / "completion"
    (home / "surface" / "funbat.artifacts" / "seed-0").mkdir(parents=True)
    (home / "surface" / "funbat.artifacts" / "seed-0" / "prediction.npy").write_text("x")
    (home / "surface" / "broken.parquet").write_text("not a record")
    kept = {**row(), "artifacts": ["surface/funbat.artifacts/seed-0/prediction.npy"]}
    record.write(home / "surface" / "funbat.parquet", [record.Record(**kept)])
    record.write(home / "surface" / "funbat.trials" / "h-0.parquet", [record.Record(**{**row("t0"), "trial": 0})])
    assert main(["init", "--results", str(tmp_path)]) == 0
    assert main(["sync", "--results", str(tmp_path)]) == 0
    found = runs(uri)
    assert found.keys() == {"r0", "t0"}
    assert files(found["r0"]) == {"prediction.npy"}
    assert found["r0"].data.params == {"method.rank": "3"}


def test_the_command_line_names_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorbench.core.tracking.__main__ import main

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "results").write_text("a file")
    assert main(["init", "--results", str(tmp_path / "results")]) == 1
    assert f"cannot create the MLflow store under {tmp_path / 'results'}" in caplog.text


def test_a_commit_to_sqlite_does_not_wait_for_the_disk(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with Store.open(uri).client._tracking_client.store.ManagedSessionMaker() as session:
        assert session.execute(sqlalchemy.text("PRAGMA synchronous")).scalar() == 0
