"""What the functions of custom claims decide, on records made by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from tensorbench.pde_operators.experiments.gp_kronecker import solved_error
from tensorbench.pde_operators.experiments.operator_learning import largest_share, worst_transfer
from tensorbench.pde_operators.experiments.wave_surrogate import worst_over_posthoc


def records(rows, *columns):
    return pd.DataFrame(rows, columns=["method", "seed", *columns])


def test_the_largest_factored_network_over_the_dense_one():
    found = records([("fno", 0, 100.0), ("fno", 1, 100.0), ("tfno_cp", 0, 12.0), ("tfno_tt", 0, 15.0)], "weights")
    assert largest_share(found) == pytest.approx(0.15)


def test_the_worst_transfer_of_each_seed():
    rows = [("tfno_cp", 0, 1.1), ("tfno_tt", 0, 1.4), ("tfno_cp", 1, 1.2), ("tfno_tt", 1, 1.0)]
    assert worst_transfer(records(rows, "transfer_ratio")) == pytest.approx([1.4, 1.2])


def test_one_way_layers_over_the_decomposition_with_as_many_weights():
    rows = [("oneway_1", 0, 0.3, 1, {}), ("oneway_4", 0, 0.2, 4, {}), ("oneway_1", 1, 0.1, 1, {}),
            ("posthoc_cp", 0, 0.5, None, {"posthoc_error": ([4, 1], [0.1, 0.6])}),
            ("posthoc_cp", 1, 0.5, None, {"posthoc_error": ([4, 1], [0.1, 0.2])})]  # fmt: skip
    found = worst_over_posthoc(records(rows, "one_step_error", "method.rank", "_history"))
    assert found == pytest.approx([2.0, 0.5])  # the first seed: 0.2 / 0.1 at rank 4, not 0.3 / 0.6


def test_the_solution_on_a_million_points_is_that_of_the_seed_that_has_one():
    assert solved_error(records([("kronecker", 1, None), ("kronecker", 0, 0.004)], "solved_error")) == 0.004
