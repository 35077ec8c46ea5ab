"""Jobs of every experiment that the full scale puts on a GPU, at smoke size, on one. Skipped where torch sees none."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tensorbench.core.config import load
from tensorbench.core.run import Dataset, Run
from tensorbench.core.search_space import draw

ROOT = Path(__file__).resolve().parents[1]
FULL = load(ROOT, "full", modules=False).experiments
KEYS = sorted(key for key, experiment in FULL.items() if experiment.device == "gpu")


def test_every_package_with_long_trainings_has_a_gpu_at_full_scale():
    assert {key.split("/")[0] for key in KEYS} >= {"decomposition", "pde_operators", "quantization", "radiance_fields"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("key", KEYS)
def test_every_method_runs_on_a_gpu(key, tmp_path):
    package, name = key.split("/")
    experiment = load(ROOT, "smoke", only=key, modules=False).experiment(key)
    module = importlib.import_module(f"tensorbench.{package}.experiments.{name}")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    done = set()
    for dataset, method in experiment.jobs():
        if method in done:
            continue
        done.add(method)
        chosen, how = experiment.datasets[dataset], experiment.methods[method]
        if how.search is not None:
            how = replace(how, params={**how.params, **draw(how.search, 1, seed=0)[0]})
        data = Dataset(chosen.name, chosen.uses, chosen.params)
        run = Run(package, name, data, how, 0, "smoke", uses_gpu=True, folder=tmp_path / method)
        module.run(run)
        assert run.metrics, method
        assert any(not math.isnan(value) for value in run.metrics.values()), method
    if key != "quantization/matrix_unit_probes":  # whose questions to a GPU's own units are of the full scale alone
        assert torch.cuda.max_memory_allocated() > before  # at least one of them computes there
