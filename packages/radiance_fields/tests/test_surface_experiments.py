"""The experiments on surfaces: figures without records, methods on small sequences, what is compared where."""

import importlib

import numpy as np
import pandas as pd
import pytest

from tensorbench.core import record, records
from tensorbench.radiance_fields.datasets.surfaces import isometric_bends, waving_flag
from tensorbench.radiance_fields.experiments import deformable_tracking as tracking
from tensorbench.radiance_fields.experiments import surface_geometry
from tensorbench.radiance_fields.surfaces import isometries

MODULES = ("deformable_tracking", "deformable_silhouette", "surface_geometry", "surface_speed")


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("empty", [pd.DataFrame(), records.frame(record.SCHEMA.empty_table())], ids=["bare", "no runs"])
def test_without_records_there_are_empty_figures(name, empty):
    module = importlib.import_module(f"tensorbench.radiance_fields.experiments.{name}")
    found = dict(module.figures(empty))
    assert found
    for figure in found.values():
        figure.canvas.draw()


def test_cases_share_motion_and_points():
    found = isometric_bends(seed=3, cases=["cylinder", "noise_3", "outliers_30"], frames=4, first=2, points=50)
    a, b, c = found.values()
    assert len(a.observations) == 2
    np.testing.assert_array_equal(a.truth, c.truth)
    exact = a.camera.project(a.exact[0](a.observations[0].uv))
    np.testing.assert_allclose(3 * (a.observations[0].pixels - exact), b.observations[0].pixels - exact, atol=1e-9)
    assert (np.abs(a.observations[0].pixels - c.observations[0].pixels).max(1) > 0).sum() == 15
    with pytest.raises(ValueError, match="unknown case 'cylindre'"):
        isometric_bends(seed=0, cases=["cylindre"])


def test_the_flag_keeps_its_edge_and_both_cameras_see_it():
    sequence, cameras = waving_flag(seed=0, views=2)
    edge = np.c_[np.full(5, -0.5), np.linspace(-0.5, 0.5, 5)]
    np.testing.assert_allclose(sequence.exact[-1](edge), sequence.exact[0](edge), atol=1e-12)
    for camera in cameras:
        pixels = camera.project(sequence.truth[-1])
        assert (pixels > 0).all() and (pixels < [640, 480]).all()
    with pytest.raises(ValueError, match="views 3"):
        waving_flag(seed=0, views=3)


@pytest.mark.parametrize(
    "name, options",
    [("rigid", {}), ("edge_mesh", {"side": 7}), ("principal_bends", {"side": 7, "components": 3})],
)
def test_baselines_give_surfaces(name, options):
    (sequence,) = isometric_bends(seed=0, cases=["cylinder"], frames=2, curvature=0.4, points=60).values()
    table, surfaces = tracking.followed(sequence, tracking.METHODS[name](sequence, np.random.default_rng(0), **options))
    assert len(table) == len(surfaces) == 2 and table["distance"].iloc[-1] < 0.06
    at = tracking.evaluated_at(sequence.template, 10)
    assert at.shape == (66**2, 2) and (np.abs(at) < 0.5).all() and surfaces[0](at).shape == (66**2, 3)
    few = tracking.evaluated_at(sequence.template)
    assert (few**2).mean() == pytest.approx((at**2).mean(), rel=0.01)  # the same mean over the sheet


def test_differences_and_the_closed_form_agree():
    import torch

    shape = isometries.shape("saddle")
    at = torch.rand(20, 2, dtype=torch.float64) - 0.5
    a = surface_geometry.exact_map(shape, "saddle", at, None)
    b = surface_geometry.differences(shape, "saddle", at, None, h=1e-3)
    for name in ("normal", "mean", "gauss"):
        torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=1e-4)
    assert a["area"] == pytest.approx(b["area"], rel=1e-3)
    assert surface_geometry.errors_of(a, shape, "saddle", at)["gauss"] < 1e-12
