"""Figures of the experiments cope with records that are not there, all of them or those of one method."""

from __future__ import annotations

import importlib
import pkgutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from tensorbench.core import record, records
from tensorbench.pde_operators import experiments
from tensorbench.pde_operators.experiments import kinetic_figures, wave_orders

NAMES = sorted(module.name for module in pkgutil.iter_modules(experiments.__path__))


def drawn(figures):
    for figure in figures:
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("empty", [pd.DataFrame(), records.frame(record.SCHEMA.empty_table())], ids=["bare", "no runs"])
def test_without_records_there_are_empty_figures(name, empty):
    module = importlib.import_module(f"{experiments.__name__}.{name}")
    if hasattr(module, "figures"):
        drawn(figure for _, figure in module.figures(empty))


def run_of(method, history=None, artifacts=()):
    kept = {"_history": history or {}, "_artifacts": [str(path) for path in artifacts]}
    return {"dataset": "d", "method": method, "seed": 0, **kept}


def test_orders_of_waves_are_drawn_where_bilinear_elements_failed():
    rows = pd.DataFrame([run_of("p1", {"error": ([0.25, 0.125], [1e-2, 2e-3])})])
    drawn(figure for _, figure in wave_orders.figures(rows))


def test_shifts_are_drawn_where_the_methods_shown_failed(tmp_path):
    arrays = {f"{part}_params": np.ones((3, 3)) for part in ("test", "wide", "short", "long")}
    arrays |= {f"{part}_errors": np.ones(3) for part in ("test", "wide", "short", "long")}
    np.savez(tmp_path / "errors.npz", **arrays)
    rows = pd.DataFrame([run_of("other", artifacts=[tmp_path / "errors.npz"])])
    drawn([kinetic_figures.shift(rows, ["stnn_k1"])])
