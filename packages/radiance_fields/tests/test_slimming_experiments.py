"""The slimming experiments at smoke size: every method runs, claims' functions and figures take what runs leave."""

import importlib
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from tensorbench.core import record, records
from tensorbench.core.config import load
from tensorbench.core.run import Dataset, Run

NAMES = ("slimming", "sparse_views", "train_upsilon", "slimming_speed")
ROOT = Path(__file__).parents[3]


def rows_of(name: str, folder: Path) -> pd.DataFrame:
    """Records of a smoke run of every method on the first dataset, as the claims and figures are given them."""
    key = f"radiance_fields/{name}"
    experiment = load(ROOT, "smoke", only=key, modules=False).experiment(key)
    module, rows = importlib.import_module(f"tensorbench.radiance_fields.experiments.{name}"), []
    chosen = next(iter(experiment.datasets.values()))
    for method in experiment.methods.values():
        dataset = Dataset(chosen.name, chosen.uses, chosen.params)
        if method.search:
            method = type(method)(
                method.name, method.uses, {**method.params, **{key: found[0] for key, found in method.search.items()}}
            )
        run = Run("radiance_fields", name, dataset, method, 0, "smoke", folder=folder / method.name)
        module.run(run)
        history: dict[str, tuple[list, list]] = {}
        for metric, step, value in run.history:
            steps, values = history.setdefault(metric, ([], []))
            steps.append(step)
            values.append(value)
        rows.append(
            {"dataset": chosen.name, "method": method.name, "seed": 0, **run.metrics, "_history": history,
             "_artifacts": [str(path) for path in run.artifacts]}
        )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_runs_and_is_drawn(name, tmp_path):
    module, rows = importlib.import_module(f"tensorbench.radiance_fields.experiments.{name}"), rows_of(name, tmp_path)
    for _, figure in module.figures(rows):
        figure.canvas.draw()
        plt.close(figure)
    if name == "slimming":
        assert len(module.over_best_order(rows)) == 1 and module.gap_shrinks(rows) == []
        assert {"monotone", "area", "full_psnr"} <= set(rows)
    if name == "sparse_views":
        assert module.best_below_full(rows) and rows["floaters"].ge(0).all()


def test_the_gap_is_of_equal_scenes():
    from tensorbench.radiance_fields.experiments.slimming import gap_shrinks

    psnrs = {"plain": 27.0, "train": 25.0, "plain_long": 28.0, "train_long": 27.5}
    rows = [{"dataset": "spheres", "method": name, "seed": 0, "full_psnr": value} for name, value in psnrs.items()]
    rows += [{"dataset": "blocks", "method": name, "seed": 0, "full_psnr": 20.0} for name in ("plain", "train")]
    assert gap_shrinks(pd.DataFrame(rows)) == [pytest.approx(1.5)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("empty", [pd.DataFrame(), records.frame(record.SCHEMA.empty_table())], ids=["bare", "no runs"])
def test_without_records_there_are_empty_figures(name, empty):
    module = importlib.import_module(f"tensorbench.radiance_fields.experiments.{name}")
    for _, figure in module.figures(empty):
        figure.canvas.draw()
        plt.close(figure)
