"""The experiments on local tensors at smoke size: they run, and the figures take what the runs leave."""

from __future__ import annotations

import importlib
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from tensorbench.core import record, records
from tensorbench.core.config import load
from tensorbench.core.run import Dataset, Run

NAMES = ("local_rank", "strivec_ablations", "strivec_speed")
SOME = ("three_scales", "scale_2", "k_1", "local_vm")  # of the ablations, whose other variants take the same paths
ROOT = Path(__file__).parents[3]


def rows_of(name: str, folder: Path) -> pd.DataFrame:
    """Records of the jobs of the experiment at smoke size, as the figures are given them."""
    key = f"radiance_fields/{name}"
    experiment = load(ROOT, "smoke", only=key, modules=False).experiment(key)
    module, rows = importlib.import_module(f"tensorbench.radiance_fields.experiments.{name}"), []
    for data, method_name in experiment.jobs():
        if name == "strivec_ablations" and method_name not in SOME:
            continue
        chosen, method = experiment.datasets[data], experiment.methods[method_name]
        dataset = Dataset(chosen.name, chosen.uses, chosen.params)
        run = Run("radiance_fields", name, dataset, method, 0, "smoke", folder=folder / data / method_name)
        module.run(run)
        history: dict[str, tuple[list, list]] = {}
        for metric, step, value in run.history:
            steps, values = history.setdefault(metric, ([], []))
            steps.append(step)
            values.append(value)
        rows.append(
            {"dataset": data, "method": method_name, "seed": 0, **run.metrics, "_history": history,
             **{f"method.{key}": value for key, value in method.params.items()},
             "_artifacts": [str(path) for path in run.artifacts]}
        )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", NAMES)
def test_every_job_runs_and_is_drawn(name, tmp_path):
    module, rows = importlib.import_module(f"tensorbench.radiance_fields.experiments.{name}"), rows_of(name, tmp_path)
    drawn = 0
    for _, figure in module.figures(rows):
        figure.canvas.draw()
        plt.close(figure)
        drawn += 1
    assert drawn == {"local_rank": 3, "strivec_ablations": 3, "strivec_speed": 1}[name]
    if name == "strivec_ablations":
        sizes = dict(zip(rows["method"], rows["cloud_weights"], strict=True))
        assert sizes["k_1"] == sizes["three_scales"]
        assert 0.5 < sizes["scale_2"] / sizes["three_scales"] < 2
        assert rows["cover_share"].between(0, 1.5).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("empty", [pd.DataFrame(), records.frame(record.SCHEMA.empty_table())], ids=["bare", "no runs"])
def test_without_records_there_are_empty_figures(name, empty):
    module = importlib.import_module(f"tensorbench.radiance_fields.experiments.{name}")
    for _, figure in module.figures(empty):
        figure.canvas.draw()
        plt.close(figure)
