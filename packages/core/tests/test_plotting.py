"""Plotting: one look per method, labels for people, what is drawn is what was measured, files that do not change."""

import itertools
import os

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tensorbench.core import plotting
from tensorbench.core.plotting import looks
from tensorbench.core.record import RecordError


@pytest.fixture(autouse=True)
def _fresh_looks():
    plotting.set_methods({})
    yield
    plotting.set_methods({})


def look(method):
    return tuple(plotting.style(method)[key] for key in ("color", "marker", "linestyle"))


# --- one look per method ----------------------------------------------------------------------------------------------


def random_groups(seed, experiments=120, methods=150):
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(methods)]
    return {f"e{k}": list(rng.choice(names, rng.integers(1, 16), replace=False)) for k in range(experiments)}


@pytest.mark.parametrize("seed", range(3))
def test_methods_that_meet_never_share_colour_and_marker(seed):
    groups = random_groups(seed)
    plotting.set_methods(groups)
    for names in groups.values():
        for a, b in itertools.combinations(names, 2):
            assert look(a)[:2] != look(b)[:2]


def test_few_methods_differ_in_colour_and_in_marker():
    names = [f"m{i}" for i in range(len(looks.COLOURS))]
    plotting.set_methods({"e": names, "f": names[2:5]})
    assert len({look(name)[0] for name in names}) == len({look(name)[1] for name in names}) == len(names)


def test_a_look_depends_on_nothing_but_the_experiments():
    groups = random_groups(0)
    plotting.set_methods(groups)
    first = {name: look(name) for names in groups.values() for name in names}
    plotting.set_methods(random_groups(1))
    plotting.set_methods(groups)
    assert first == {name: look(name) for name in first}


def test_a_method_that_nobody_announced_has_a_look_of_its_own_all_the_same():
    assert look("some_method") == look("some_method")
    assert len({look(f"m{i}")[:2] for i in range(40)}) > 25


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cp_als", "CP-ALS"), ("funbat_cp", "FunBaT-CP"), ("per_time_mean", "per time mean"), ("tnale", "TnALE"),
        ("rre_greedy", "RRE greedy"), ("test_rmse", "test RMSE"), ("fit_seconds", "fit time (s)"),
        ("fit_cpu_seconds", "fit CPU time (s)"), ("fit_peak_mib", "fit peak memory (MiB)"), ("psnr_db", "PSNR (dB)"),
        ("seconds", "time (s)"), ("seconds_per_epoch", "time per epoch (s)"), ("wall_time_seconds", "wall time (s)"),
        ("beijing_pm25", "Beijing PM2.5"), ("us_temperature", "US temperature"), ("surface_200", "surface 200"),
        ("dataset.points", "points"), ("method.rank", "rank"), ("error_percent", "error (%)"),
        ("Already a Label", "Already a Label"), ("TT-SVD", "TT-SVD"), ("", ""), ("db", "dB"),
    ],
)  # fmt: skip
def test_labels_are_for_people(name, text):
    assert plotting.label(name) == text


def test_own_labels_win():
    plotting.set_labels({"oddly_named_thing": "The Thing"})
    assert plotting.label("oddly_named_thing") == plotting.style("oddly_named_thing")["label"] == "The Thing"


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_have_the_papers_widths():
    for columns in (1, 2):
        fig, ax = plotting.figure(columns)
        assert fig.get_figwidth() * 2.54 == pytest.approx(8 * columns)
        assert hasattr(ax, "plot")
    fig, axes = plotting.figure(2, rows=2, cols=3, height=11, sharey=True)
    assert axes.shape == (2, 3)
    assert fig.get_figheight() * 2.54 == pytest.approx(11)
    for bad in ({"columns": 3}, {"rows": 0}):
        with pytest.raises(ValueError, match=r"figure needs|width of the paper"):
            plotting.figure(**bad)


def frame(rows, names=("dataset", "method", "seed", "x", "rmse")):
    return pd.DataFrame(rows, columns=list(names))


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_a_line_is_the_mean_over_seeds_and_its_band_the_t_interval():
    values = np.array([1.0, 2.0, 4.0])
    _, ax = plotting.figure()
    plotting.series(
        ax, frame([("d", "cp_als", s, x, v * x) for s, v in enumerate(values) for x in (1, 2)]), "x", "rmse"
    )
    line = lines(ax)["CP-ALS"]
    np.testing.assert_allclose(line.get_xydata(), [[1, values.mean()], [2, 2 * values.mean()]])
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    band = ax.collections[0].get_paths()[0].vertices
    at_one = band[band[:, 0] == 1][:, 1]
    assert (at_one.min(), at_one.max()) == pytest.approx((expected.low, expected.high))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "RMSE")
    assert line.get_color() == plotting.style("cp_als")["color"]


def test_on_a_log_axis_the_mean_is_geometric_and_the_band_positive():
    values = [1e-3, 1.0, 1e3]
    _, ax = plotting.figure()
    plotting.series(ax, frame([("d", "a", s, 1, v) for s, v in enumerate(values)]), "x", "rmse", log="y")
    assert lines(ax)["a"].get_ydata() == pytest.approx([1.0])
    assert (ax.collections[0].get_paths()[0].vertices[:, 1] > 0).all()


def test_datasets_are_averaged_within_a_seed_and_not_taken_for_seeds():
    rows = [(d, "a", s, 1, v + s) for s in range(2) for d, v in (("x", 0.0), ("y", 100.0))]
    _, ax = plotting.figure()
    plotting.series(ax, frame(rows), "x", "rmse")
    assert lines(ax)["a"].get_ydata() == pytest.approx([50.5])
    half = np.ptp(ax.collections[0].get_paths()[0].vertices[:, 1]) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, 1) * np.std([50, 51], ddof=1) / 2**0.5)


def test_the_median_and_its_quartiles():
    _, ax = plotting.figure()
    plotting.series(
        ax, frame([("d", "a", s, 1, v) for s, v in enumerate([1, 2, 3, 4, 100])]), "x", "rmse", reducer="median"
    )
    assert lines(ax)["a"].get_ydata() == pytest.approx([3])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((2, 4))


def test_lines_by_something_else_and_by_nothing():
    rows = [(d, "a", 0, x, 1.0) for d in ("u", "v") for x in (1, 2)]
    _, ax = plotting.figure()
    plotting.series(ax, frame(rows), "x", "rmse", by="dataset")
    assert list(lines(ax)) == ["u", "v"]
    assert len({line.get_color() for line in ax.get_lines()}) == 2
    _, ax = plotting.figure()
    plotting.series(ax, frame(rows), "x", "rmse", by=None)
    assert len(ax.get_lines()) == 1
    assert plotting.legend(ax) is None


def test_one_seed_has_no_band_and_broken_values_no_point():
    rows = [("d", "a", 0, 1, 1.0), ("d", "a", 0, 2, np.nan), ("d", "a", 0, 3, np.inf), ("d", "a", 0, 4, 2.0)]
    _, ax = plotting.figure()
    plotting.series(ax, frame(rows), "x", "rmse")
    assert not ax.collections
    np.testing.assert_array_equal(lines(ax)["a"].get_xdata(), [1, 4])
    _, ax = plotting.figure()
    plotting.series(ax, frame([*rows, ("d", "a", 0, 5, -1.0)]), "x", "rmse", log="xy")
    np.testing.assert_array_equal(lines(ax)["a"].get_xdata(), [1, 4])


@pytest.mark.parametrize("records", [pd.DataFrame(), frame([]), frame([("d", "a", 0, 1, np.nan)])])
def test_nothing_to_draw_is_said_in_the_axes(records, tmp_path):
    fig, (left, right) = plotting.figure(2, cols=2)
    plotting.series(left, records, "x", "rmse", log="y")
    plotting.bars(right, records, "rmse", log=True)
    assert [ax.texts[0].get_text() for ax in (left, right)] == ["no records", "no records"]
    plotting.save(fig, tmp_path / "empty")


def test_a_column_that_is_not_there_is_an_error_with_the_nearest_name():
    records = frame([("d", "a", 0, 1, 1.0)])
    _, ax = plotting.figure()
    with pytest.raises(ValueError, match="did you mean 'rmse'"):
        plotting.bars(ax, records, "rmsee")
    with pytest.raises(ValueError, match="unknown reducer 'middle'"):
        plotting.series(ax, records, "x", "rmse", reducer="middle")


def test_bars_stand_at_the_means_with_gaps_for_what_is_missing():
    rows = [("u", "a", s, 0, v) for s, v in enumerate([1.0, 3.0])] + [("v", "a", 0, 0, 5.0), ("u", "b", 0, 0, 7.0)]
    _, ax = plotting.figure()
    plotting.bars(ax, frame([*rows, ("v", "b", 0, 0, np.nan)]), "rmse")
    heights = [patch.get_height() for patch in ax.patches]
    assert heights == pytest.approx([2, 5, 7])
    left = [patch.get_x() for patch in ax.patches]
    assert left[0] < left[2] < left[1]  # a and b on u, then a on v
    assert [text.get_text() for text in ax.get_xticklabels()] == ["u", "v"]


def test_bars_on_a_log_axis_are_points_at_geometric_means():
    rows = [("u", "a", s, 0, v) for s, v in enumerate([1e-4, 1e-2])]
    _, ax = plotting.figure()
    plotting.bars(ax, frame(rows), "rmse", log=True)
    assert not ax.patches
    assert ax.containers[0].lines[0].get_ydata() == pytest.approx([1e-3])


def test_order_sets_and_restricts_what_is_shown():
    records = frame([(d, m, 0, 0, 1.0) for d in "uv" for m in "abc"])
    _, ax = plotting.figure()
    plotting.bars(ax, records, "rmse", order=["c", "a"], groups=["v"])
    assert ax.get_legend_handles_labels()[1] == ["c", "a"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["v"]


def test_reference_lines():
    _, ax = plotting.figure()
    plotting.reference(ax, y=0.37, text="paper: 0.37")
    plotting.reference(ax, x=2)
    assert list(ax.get_lines()[0].get_ydata()) == [0.37, 0.37]
    assert [text.get_text() for text in ax.texts] == ["paper: 0.37"]
    for bad in ({}, {"x": 1, "y": 1}):
        with pytest.raises(ValueError, match="exactly one"):
            plotting.reference(ax, **bad)


def test_guides_have_the_slope_they_say():
    _, ax = plotting.figure()
    plotting.log_axis(ax, "xy")
    ax.set(xlim=(1, 100), ylim=(1e-4, 1))
    plotting.guide(ax, -1.5, through=(10, 0.1))
    x, y = ax.get_lines()[0].get_data()
    assert np.diff(np.log(y)) / np.diff(np.log(x)) == pytest.approx(np.full(len(x) - 1, -1.5))
    assert ax.get_lines()[0].get_label() == "slope −1.5"
    assert ax.get_xlim() == (1, 100)


def test_log_axes_show_given_ticks_as_numbers():
    fig, ax = plotting.figure()
    ax.plot([100, 12800], [1, 2])
    plotting.log_axis(ax, "x", ticks=[100, 1600, 12800])
    fig.canvas.draw()
    assert [t.get_text().replace("\u2009", " ") for t in ax.get_xticklabels()] == ["100", "1 600", "12 800"]
    with pytest.raises(ValueError, match="is not an axis"):
        plotting.log_axis(ax, "z")


def test_a_legend_names_each_method_once():
    fig, axes = plotting.figure(2, cols=2)
    records = frame([("d", m, 0, x, 1.0) for m in ("cp_als", "funbat") for x in (1, 2)])
    for ax in axes:
        plotting.series(ax, records, "x", "rmse")
    legend = plotting.legend(fig)
    assert [text.get_text() for text in legend.get_texts()] == ["CP-ALS", "FunBaT"]
    assert len(plotting.legend(axes[0], title="methods").get_texts()) == 2


# --- files ------------------------------------------------------------------------------------------------------------


def drawing():
    fig, ax = plotting.figure()
    plotting.bars(ax, frame([("u", m, s, 0, 1.0 + s) for m in ("a", "b") for s in range(3)]), "rmse")
    plotting.legend(ax)
    return fig


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first = plotting.save(drawing(), tmp_path / "one" / "fig.v1", png=True)
    second = plotting.save(drawing(), tmp_path / "two" / "fig.v1", png=True)
    assert [path.name for path in first] == ["fig.v1.pdf", "fig.v1.svg", "fig.v1.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert sorted(os.listdir(tmp_path / "one")) == sorted(path.name for path in first)
    assert (first[0].read_bytes()[:5], first[2].read_bytes()[1:4]) == (b"%PDF-", b"PNG")


def test_text_stays_text(tmp_path):
    pdf, svg = plotting.save(drawing(), tmp_path / "fig")
    assert ">RMSE</text>" in svg.read_text()
    assert b"/Type3" not in pdf.read_bytes()


def test_a_figure_that_cannot_be_drawn_leaves_what_was_there(tmp_path):
    plotting.save(drawing(), tmp_path / "fig")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fig = drawing()
    fig.axes[0].set_title(r"$\notacommand$")  # fails when it is drawn
    with pytest.raises(ValueError, match="notacommand"):
        plotting.save(fig, tmp_path / "fig")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "fig.pdf").mkdir()
    with pytest.raises(RecordError, match=r"cannot write .*fig\.pdf"):
        plotting.save(drawing(), tmp_path / "fig")
