"""Area and energy of int8 matrix products on five arrays of multipliers, by where the recoder stands.

A method is a recoder and its placement; every run builds all five arrays at each size, runs the dataset's product
through them cycle by cycle, counts what every gate does, and checks the result. Final values are geometric means over
the arrays, histories (``<array>_…``) have the number of multipliers as their step. Networks run on the arrays of
``network_multipliers``. Where Yosys is there, ``verilog_…`` are the same figures from its netlists, at the smallest
size.

``variants`` costs the same activity with registers and full adders 30 % dearer or cheaper.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.quantization.datasets.int8_layers import Int8Work
from tensorbench.quantization.ent import activity, synthesis
from tensorbench.quantization.ent.arrays import ARRAYS, Array, make_array
from tensorbench.quantization.ent.circuits import BoothForm
from tensorbench.quantization.ent.costs import Activity, GateModel, Report
from tensorbench.quantization.ent.network import network_energy

log = logging.getLogger(__name__)
METHODS = {"recoder": "recoder"}
BASELINE = "cell_mbe"
LABELS = {
    "matrix2d": "broadcast",
    "array1d2d": "adder trees",
    "systolic_os": "systolic, OS",
    "systolic_ws": "systolic, WS",
    "cube3d": "cube",
}
NETWORKS = {"mnist_cnn": "small CNN", "mnist_resnet8": "ResNet-8"}
PAPER = {"area": {256: 8.7, 1024: 12.2, 4096: 11.0}, "energy": {256: 13.0, 1024: 17.5, 4096: 15.5}}
SPREAD = 0.3


def variants() -> list[tuple[str, GateModel]]:
    """The nominal table first, then every combination of dearer, nominal and cheaper registers and full adders."""
    out = [("nominal", GateModel())]
    for dff in (1 - SPREAD, 1.0, 1 + SPREAD):
        for fa in (1 - SPREAD, 1.0, 1 + SPREAD):
            if (dff, fa) != (1.0, 1.0):
                out.append((f"DFF × {dff:g}, FA × {fa:g}", GateModel().scaled("DFF", dff).scaled("FA", fa)))
    return out


def run(run: Run) -> None:
    """All arrays and sizes on the dataset's product, where it has rows; the network, where there is one."""
    data = run.dataset.load(run.seed)
    circuits = activity.Circuits(run.method.params.get("booth", "factored"))
    if len(data.A):
        _product(run, data, circuits)
    if data.layers:
        _network(run, data, circuits)


def _product(run: Run, data: Int8Work, circuits: activity.Circuits) -> None:
    options = run.method.params
    multipliers = options.get("multipliers", (256, 1024, 4096))
    wanted, exact = data.A @ data.B, True
    measured: dict[tuple[str, int], tuple[Array, Activity]] = {}
    for size in multipliers:
        for name in ARRAYS:
            array = make_array(name, size, kind=options["kind"], placement=options["placement"])
            result = array.run(data.A, data.B, trace=True)
            exact &= bool((result.c == wanted).all())
            measured[name, size] = array, activity.of_result(array, result, circuits)
    run.log(exact=exact)
    for step, (_, model) in enumerate(variants()):
        reports = {key: activity.report(*item, model, circuits) for key, item in measured.items()}
        _merit(run, reports, step)
    for name in ARRAYS:
        array, _ = measured[name, multipliers[0]]
        run.log(**{f"{name}_register_bits": activity.register_bits_per_cell(array)})
    _verilog(run, data, [measured[name, multipliers[0]][0] for name in ARRAYS], circuits.booth)


def _merit(run: Run, reports: dict[tuple[str, int], Report], variant: int) -> None:
    density = {key: report.gops_per_mm2 for key, report in reports.items()}
    efficiency = {key: report.gops_per_watt for key, report in reports.items()}
    run.log(
        step=variant, variant_gops_per_mm2=_mean(density.values()), variant_gops_per_watt=_mean(efficiency.values())
    )
    for name, size in reports:
        run.log(step=variant, **{f"variant_{name}_gops_per_mm2_{size}": density[name, size]})
        run.log(step=variant, **{f"variant_{name}_gops_per_watt_{size}": efficiency[name, size]})
    if variant:
        return
    for (name, size), report in reports.items():
        run.log(
            step=size,
            **{
                f"{name}_mm2": report.area_um2 / 1e6,
                f"{name}_pj_per_mac": report.energy_per_mac_fj / 1e3,
                f"{name}_gops_per_mm2": report.gops_per_mm2,
                f"{name}_gops_per_watt": report.gops_per_watt,
            },
        )
    for size in sorted({size for _, size in reports}):
        mine = [key for key in reports if key[1] == size]
        run.log(
            **{
                f"mm2_{size}": _mean(reports[key].area_um2 / 1e6 for key in mine),
                f"pj_per_mac_{size}": _mean(reports[key].energy_per_mac_fj / 1e3 for key in mine),
                f"gops_per_mm2_{size}": _mean(density[key] for key in mine),
                f"gops_per_watt_{size}": _mean(efficiency[key] for key in mine),
            }
        )


def _mean(values) -> float:
    return float(np.exp(np.mean(np.log(list(values)))))


def _verilog(run: Run, data: Int8Work, arrays: list[Array], booth: BoothForm) -> None:
    if synthesis.yosys_command() is None:
        log.warning("%s: no yosys here, so nothing is said of the Verilog", run.title)
        return
    circuits = synthesis.YosysCircuits(booth)
    reports = [activity.report(a, activity.measure(a, data.A, data.B, circuits), None, circuits) for a in arrays]
    run.log(
        verilog_mm2=_mean(r.area_um2 / 1e6 for r in reports),
        verilog_pj_per_mac=_mean(r.energy_per_mac_fj / 1e3 for r in reports),
        verilog_gops_per_mm2=_mean(r.gops_per_mm2 for r in reports),
        verilog_gops_per_watt=_mean(r.gops_per_watt for r in reports),
    )
    for array, report in zip(arrays, reports, strict=True):
        run.log(
            **{
                f"verilog_{array.name}_gops_per_mm2": report.gops_per_mm2,
                f"verilog_{array.name}_gops_per_watt": report.gops_per_watt,
            }
        )


def _network(run: Run, data: Int8Work, circuits: activity.Circuits) -> None:
    options = run.method.params
    costs = {}
    for name in ARRAYS:
        size = options.get("network_multipliers", 1024)
        array = make_array(name, size, kind=options["kind"], placement=options["placement"])
        costs[name] = network_energy(data.layers, array, images=data.images, circuits=circuits)
        run.log(**{f"{name}_network_nj": sum(costs[name].energy_fj.values()) / 1e6})
        run.log(**{f"{name}_utilisation": costs[name].utilisation})
    run.log(
        network_nj=_mean(sum(cost.energy_fj.values()) / 1e6 for cost in costs.values()),
        utilisation=float(np.mean([cost.utilisation for cost in costs.values()])),
        float_accuracy=data.float_accuracy,
        int8_accuracy=data.int8_accuracy,
    )


# --- gains over a recoder in every cell ----------------------------------------------------------------------------


def _gain(records: pd.DataFrame, of: str, over: str, metric: str) -> pd.DataFrame:
    """Ratio minus one (%) at every step, by dataset and seed."""
    history = rec.history(records, metric)
    keys = ["dataset", "seed", "step"]
    wide = history.pivot_table(index=keys, columns="method", values="value")
    if of not in wide or over not in wide:
        return pd.DataFrame(columns=[*keys, "gain"])
    return (100 * (wide[of] / wide[over] - 1)).rename("gain").reset_index()


def _worst(records: pd.DataFrame, over: str, metrics: list[str]) -> list[float]:
    gains = pd.concat([_gain(records, "edge_ent", over, metric) for metric in metrics])
    return gains.groupby("seed")["gain"].min().tolist()


def worst_area_gain(records: pd.DataFrame) -> list[float]:
    """Per seed, the smallest gain in GOPS/mm² (%) over arrays and sizes, over Booth in the cell."""
    return _worst(records, BASELINE, [f"{name}_gops_per_mm2" for name in ARRAYS])


def worst_area_gain_textbook(records: pd.DataFrame) -> list[float]:
    """The same over Booth in its textbook form."""
    return _worst(records, "cell_mbe_textbook", [f"{name}_gops_per_mm2" for name in ARRAYS])


def systolic_area_excess(records: pd.DataFrame) -> list[float]:
    """Per seed, the largest area of edge EN-T over edge Booth on a systolic array, minus one (%)."""
    gains = [_gain(records, "edge_ent", "edge_mbe", f"systolic_{kind}_mm2") for kind in ("os", "ws")]
    return pd.concat(gains).groupby("seed")["gain"].max().tolist()


def _sensitivity(over: str) -> Callable[[pd.DataFrame], list[float]]:
    return lambda records: _worst(records, over, ["variant_gops_per_mm2", "variant_gops_per_watt"])


def worst_in_sensitivity(records: pd.DataFrame) -> list[float]:
    """Per seed, the smallest mean gain (%), of area or energy efficiency, when registers and adders cost 30 % more or
    less."""
    return _sensitivity(BASELINE)(records)


def worst_in_sensitivity_textbook(records: pd.DataFrame) -> list[float]:
    """The same over Booth in its textbook form."""
    return _sensitivity("cell_mbe_textbook")(records)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Gains of each array, their sensitivity, and where the energy goes on a network."""
    yield "gains", _gains_figure(records)
    yield "sensitivity", _sensitivity_figure(records)
    yield "network", _network_figure(records)


_RIVALS = {"cell_mbe": "over Booth in the cell", "cell_mbe_textbook": "over textbook Booth in the cell"}


def _gains_figure(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, rows=2, cols=2, height=11, sharex=True, sharey="row")
    looks = plotting.styles(["256", "1024", "4096"])
    texts = {256: "256 GOPS", 1024: "1 TOPS", 4096: "4 TOPS"}
    for row, (metric, kind) in enumerate((("gops_per_mm2", "area"), ("gops_per_watt", "energy"))):
        for col, (rival, words) in enumerate(_RIVALS.items()):
            ax = axes[row, col]
            shown = records
            if kind == "energy" and len(records) and (records["dataset"] == "mnist_cnn").any():
                shown = records[records["dataset"] == "mnist_cnn"]  # the claims' data; areas are the same for all
            frame = pd.concat(
                [_gain(shown, "edge_ent", rival, f"{n}_{metric}").assign(array=n) for n in ARRAYS]
            ) if len(records) else pd.DataFrame()  # fmt: skip
            if frame.empty:
                plotting.empty(ax)
                continue
            sizes = sorted(frame["step"].unique())
            places = [*ARRAYS, "mean"]
            for k, size in enumerate(sizes):
                part = frame[frame["step"] == size]
                means = [part.loc[part["array"] == n, "gain"].mean() for n in ARRAYS]
                at = np.arange(len(places)) + (k - (len(sizes) - 1) / 2) * 0.26
                look = looks.get(str(int(size)), {"color": "#888888"})
                ax.bar(at, [*means, np.mean(means)], 0.24, color=look["color"], label=texts.get(int(size), f"{size:g}"))
                if int(size) in PAPER[kind]:
                    ax.plot([at[-1] - 0.12, at[-1] + 0.12], [PAPER[kind][int(size)]] * 2, color="black", linewidth=1.4,
                            label="the paper's mean")  # fmt: skip
            ax.axhline(0, color="#444444", linewidth=0.7)
            ax.set_xticks(range(len(places)), [LABELS.get(p, p) for p in places], rotation=25, ha="right",
                          rotation_mode="anchor")  # fmt: skip
            ax.grid(False, axis="x")
            ax.set_title(words if row == 0 else "")
            if col == 0:
                ax.set_ylabel(f"gain in {kind} efficiency (%)")
    plotting.legend(fig, ncols=4)
    return fig


def _sensitivity_figure(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=7, sharey=True)
    names = [name for name, _ in variants()]
    looks = plotting.styles(list(_RIVALS))
    for ax, metric, words in zip(
        axes, ("variant_gops_per_mm2", "variant_gops_per_watt"), ("area efficiency", "energy efficiency"), strict=True
    ):
        for rival, text in _RIVALS.items():
            frame = _gain(records, "edge_ent", rival, metric) if len(records) else pd.DataFrame()
            if frame.empty:
                continue
            mean = frame.groupby("step")["gain"].mean()
            ax.plot(mean.to_numpy(), [int(k) for k in mean.index], linestyle="none", marker=looks[rival]["marker"],
                    color=looks[rival]["color"], label=text)  # fmt: skip
        if not ax.lines:
            plotting.empty(ax)
            continue
        ax.axvline(0, color="#444444", linewidth=0.7)
        ax.set_yticks(range(len(names)), names)
        ax.set_xlabel(f"mean gain in {words} (%)")
    axes[0].invert_yaxis()
    plotting.legend(fig)
    return fig


def _network_figure(records: pd.DataFrame) -> Figure:
    columns = {f"{name}_network_nj": name for name in ARRAYS}
    shown = records[records["network_nj"].notna()] if "network_nj" in records else pd.DataFrame()
    datasets = [] if shown.empty else list(dict.fromkeys(shown["dataset"]))
    fig, axes = plotting.figure(columns=2, cols=max(len(datasets), 1), height=6.5, sharey=True, squeeze=False)
    if not datasets:
        plotting.empty(axes[0, 0], "no network among the datasets")
        return fig
    keys = ["seed", "array"]
    words = {key: LABELS[name] for key, name in columns.items()}
    order = [name for name in records["method"].unique() if name != BASELINE]
    for ax, dataset in zip(axes[0], datasets, strict=True):
        part = shown[shown["dataset"] == dataset]
        long = part.melt(["method", "seed"], list(columns), "array", "nj").replace({"array": words})
        wide = long.pivot_table(index=keys, columns="method", values="nj")
        if BASELINE not in wide:
            plotting.empty(ax, "nothing to compare with")
            continue
        change = (100 * (wide.div(wide[BASELINE], axis=0) - 1)).drop(columns=BASELINE).stack().rename("change")
        plotting.bars(ax, change.reset_index(), "change", group="array", order=order, groups=words.values())
        ax.axhline(0, color="#444444", linewidth=0.7)
        ax.set(title=NETWORKS.get(dataset, dataset), ylabel="")
        ax.tick_params(axis="x", labelrotation=25)
    axes[0, 0].set_ylabel("energy of one inference\nover Booth in the cell (%)")
    plotting.legend(fig)
    return fig
