"""A job as a process: what it leaves when all goes well, when it fails, when it is killed, when the disk refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tensorbench.core import record

TIMINGS = ("fit_seconds", "fit_cpu_seconds", "fit_peak_mib")


def outcome(path: Path) -> list[dict[str, float]]:
    """Metrics of each seed without the timings."""
    return [{k: v for k, v in row["metrics"].items() if k not in TIMINGS} for row in record.read_rows(path)]


def leftovers(toy) -> list[Path]:
    """Temporary files or folders under results."""
    return [path for path in (toy.root / "results").rglob(".*") if "tmp" in path.name or "artifacts" in path.name]


def test_a_job_leaves_one_row_per_seed_with_provenance_and_artifacts(toy):
    toy.run()
    rows = record.read_rows(toy.record())
    assert [row["seed"] for row in rows] == [0, 1, 2]
    first = rows[0]
    assert first["params"] == {"dataset": {"slope": 3.0}, "method": {}}
    assert len(first["history"]) == 3 and first["metrics"]["fit_seconds"] > 0
    assert {"commit", "dirty", "versions", "cpu", "threads", "config"} <= first["provenance"].keys()
    assert (toy.root / "results/desk/toy/line" / first["artifacts"][0]).exists()
    assert leftovers(toy) == []


def test_the_same_seed_gives_the_same_metrics(toy):
    toy.run()
    first = outcome(toy.record())
    toy.record().unlink()
    toy.run()
    assert outcome(toy.record()) == first


def test_tuning_draws_records_and_resumes(toy):
    toy.run("least_squares", "--tune")
    assert not toy.record("least_squares").exists()
    winner = json.loads(toy.record("least_squares", suffix=".tuned.json").read_text())
    assert winner["trials"] == 2 and winner["params"] == {"ridge": 0.0}  # ridge 10 shrinks the slope
    trials = sorted(toy.record("least_squares", suffix=".trials").glob("*.parquet"))
    assert [record.read_rows(path)[0]["trial"] for path in trials] == [0, 1]
    stamps = [path.stat().st_mtime_ns for path in trials]
    trials[1].unlink()
    toy.run("least_squares", "--tune")
    assert trials[0].stat().st_mtime_ns == stamps[0], "a finished trial was done again"
    assert trials[1].exists()
    toy.run("least_squares")
    assert record.read_rows(toy.record("least_squares"))[0]["params"]["method"] == {"ridge": 0.0}


def test_a_method_that_raises_leaves_no_record_but_the_reason(toy):
    done = toy.run(check=False, TOY_FAIL="mean_only")
    assert done.returncode == 1
    assert "toy/line · toy_line · mean_only failed: RuntimeError: the toy was told to fail" in done.stderr
    assert not toy.record().exists() and leftovers(toy) == []
    note = json.loads(toy.record(suffix=".failed.json").read_text())
    assert note["error"] == "RuntimeError: the toy was told to fail"
    toy.run()
    assert toy.record().exists() and not toy.record(suffix=".failed.json").exists()


def test_kill_9_in_the_middle_leaves_no_record(toy):
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorbench.core.run", "toy/line", "toy_line", "mean_only"],
        cwd=toy.root,
        env=toy.environment(TOY_SLEEP="3"),
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "seed 0: done" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    assert not toy.record().exists()
    assert [path.name for path in toy.record().parent.glob("*.parquet")] == []
    assert "ended without a word" in json.loads(toy.record(suffix=".failed.json").read_text())["error"]


def test_unknown_names_are_told_before_anything_is_imported(toy):
    done = toy.run("mean_onli", check=False)
    assert done.returncode == 2 and "unknown method 'mean_onli'; did you mean 'mean_only'" in done.stderr
    done = toy.python("-m", "tensorbench.core.run", "toy/lime", "toy_line", "mean_only", check=False)
    assert "unknown experiment 'toy/lime'; did you mean 'toy/line'" in done.stderr


def test_a_tracking_server_that_is_away_costs_no_record_and_sync_catches_up(toy):
    done = toy.run(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert toy.record().exists() and len(record.read_rows(toy.record())) == 3
    assert "MLflow" in done.stderr
    synced = toy.python("-m", "tensorbench.core.tracking", "sync")
    assert "3 logged" in synced.stderr, synced.stderr
    again = toy.python("-m", "tensorbench.core.tracking", "sync")
    assert "0 logged" in again.stderr, again.stderr


@pytest.fixture
def small_disk(toy):
    """A results folder on a disk of its own, of 4 MiB; skipped where mounting is not allowed."""
    folder = toy.root / "results"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_a_clear_error_and_no_half_record(toy, small_disk):
    with open(small_disk / "ballast", "wb") as ballast:
        try:
            while True:
                ballast.write(b"x" * 65536)
                ballast.flush()
        except OSError:
            pass
    done = toy.run(check=False, MLFLOW_TRACKING_URI="http://127.0.0.1:9", timeout=180)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert not toy.record().exists() and leftovers(toy) == []
    (small_disk / "ballast").unlink()
    toy.run(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert len(record.read_rows(toy.record())) == 3


def test_a_read_only_results_folder_is_a_clear_error(toy, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = toy.run(check=False, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 1 and "Read-only file system" in done.stderr


def test_a_module_that_cannot_be_imported_is_told_in_the_ledger(toy, edit):
    edit(toy.module, "import numpy as np", "import numpy as np\nimport no_such_library")
    done = toy.run(check=False)
    assert done.returncode == 1 and "No module named 'no_such_library'" in done.stderr
    assert "no_such_library" in json.loads(toy.record(suffix=".failed.json").read_text())["error"]


def test_a_gpu_where_there_is_none_is_told_with_what_to_do(toy, edit):
    edit(toy.config, "seeds: 3", "seeds: 3\ndevice: gpu")
    done = toy.run(check=False, CUDA_VISIBLE_DEVICES="", TENSORBENCH_GPUS="")
    assert done.returncode == 1 and "GPU" in done.stderr
    assert "GPU" in json.loads(toy.record(suffix=".failed.json").read_text())["error"]


def test_every_library_computes_on_the_stated_threads(toy, edit):
    edit(
        toy.module, "import os, time", "import os, time, scipy.linalg, torch\nfrom threadpoolctl import threadpool_info"
    )
    counts = "pools=max(i['num_threads'] for i in threadpool_info()), torch=torch.get_num_threads()"
    edit(toy.module, "run.log(valid_rmse", f"run.log({counts})\n    run.log(valid_rmse")
    toy.run(OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2")
    metrics = record.read_rows(toy.record())[0]["metrics"]
    assert (metrics["pools"], metrics["torch"]) == (1, 1)


def test_tuning_is_done_once_and_again_when_the_search_changes(toy, edit):
    toy.run("least_squares")
    path = toy.record("least_squares", suffix=".tuned.json")
    stamp = path.stat().st_mtime_ns
    edit(toy.config, "seeds: 3", "seeds: 2")  # more or fewer seeds leave the tuning as it is
    toy.run("least_squares")
    assert path.stat().st_mtime_ns == stamp
    edit(toy.config, "ridge: [0.0, 10.0]", "ridge: [1.0, 10.0]")
    toy.run("least_squares")
    assert json.loads(path.read_text())["params"] == {"ridge": 1.0}
