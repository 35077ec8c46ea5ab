"""A run's own interface: what it logs, what it refuses, what it repeats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tensorbench.core.config import Choice
from tensorbench.core.run import Dataset, Run


@pytest.fixture
def run(tmp_path) -> Run:
    return Run("toy", "line", Dataset("d", "d"), Choice("m", "m"), seed=3, scale="desk", folder=tmp_path / "artifacts")


def test_log_keeps_final_values_and_history(run):
    run.log(step=1, loss=2.0)
    run.log(step=2.5, loss=np.float32(1.0))
    run.log(ok=np.bool_(True), n=torch.tensor(4), error=np.array(0.25))
    assert run.metrics == {"loss": 1.0, "ok": 1.0, "n": 4.0, "error": 0.25}
    assert run.booleans == {"ok"}
    assert run.history == [("loss", 1.0, 2.0), ("loss", 2.5, 1.0)]


@pytest.mark.parametrize("value", ["0.5", None, np.array([1.0, 2.0]), 1j, [1.0]], ids=repr)
def test_log_refuses_what_is_no_number(run, value):
    with pytest.raises(TypeError, match="metric 'loss' must be a real number"):
        run.log(loss=value)
    assert run.metrics == {}


def test_nan_is_recorded_with_a_warning(run, caplog):
    run.log(loss=math.nan)
    assert math.isnan(run.metrics["loss"]) and "loss is NaN" in caplog.text


def test_time_logs_seconds_and_memory(run):
    with run.time("fit"):
        block = np.ones((40, 1024, 1024 // 8))  # 40 MiB
        del block
    assert 0 < run.metrics["fit_seconds"] < 10 and run.metrics["fit_cpu_seconds"] >= 0
    assert 30 < run.metrics["fit_peak_mib"] < 200


def test_the_same_seed_gives_the_same_draws(run):
    assert torch.equal(torch.rand(3, generator=run.generator), torch.rand(3, generator=run.generator))
    assert np.array_equal(run.rng.random(3), np.random.default_rng(3).random(3))


@pytest.mark.parametrize("name", ["seed", "trial", "dataset.x"])
def test_a_metric_may_not_pass_for_who_a_run_is(run, name):
    with pytest.raises(ValueError, match="no metric; call it something else"):
        run.log(**{name: 1.0})


@pytest.mark.parametrize("name", ["a/b.npy", "../x", ".hidden", ""])
def test_artifact_names_stay_inside(run, name):
    with pytest.raises(ValueError, match="plain file name"):
        run.artifact(name)


def test_a_run_without_gpu_computes_on_the_cpu_and_one_with_says_what_is_missing(run):
    assert run.device.type == "cpu"
    run.uses_gpu = True
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="asks for a GPU"):
            _ = run.device
