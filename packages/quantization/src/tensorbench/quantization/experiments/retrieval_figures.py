"""The figures of the experiment ``retrieval``; a curve is a method with the kind of index it was used in."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec

# curve: (method, metric)
_COMPUTE = {
    "AdANNS-IVF": ("adanns", "ivf_top1"),
    "IVF-RR (rigid)": ("rigid", "ivf_top1"),
    "AdANNS-IVF-D": ("adanns", "ivf_d_top1"),
    "IVF-MR": ("matryoshka", "ivf_top1"),
    "MG-IVF-RR": ("multigranular", "ivf_top1"),
    "MG-IVF-SVD": ("svd", "ivf_top1"),
}
_CODES = {
    "AdANNS-OPQ": ("adanns", "opq_top1"),
    "OPQ-RR (rigid)": ("rigid", "opq_top1"),
    "OPQ-RR, full": ("rigid", "opq_full_top1"),
    "OPQ-RR-SVD": ("svd", "opq_top1"),
}
_COMPOSITES = {
    "AdANNS-IVFOPQ": ("adanns", "ivfopq_top1"),
    "IVFOPQ-RR (rigid)": ("rigid", "ivfopq_top1"),
    "AdANNS graph": ("adanns", "graph_top1"),
    "graph, rigid": ("rigid", "graph_top1"),
}
_EXACT = {
    "nested": ("adanns", "exact_top1"),
    "rigid": ("rigid", "exact_top1"),
    "SVD of rigid": ("svd", "exact_top1"),
}


def _curves(records: pd.DataFrame, curves: dict[str, tuple[str, str]]) -> pd.DataFrame:
    parts = []
    for name, (method, metric) in curves.items():
        own = records[records["method"] == method] if len(records) else records
        if len(own) and any(metric in points for points in own["_history"]):
            parts.append(rec.history(own, metric).assign(curve=name))
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=["dataset", "seed", "curve", "step", "value"])
    )


def _against_rigid(long: pd.DataFrame) -> pd.DataFrame:
    """Less the rigid IVF of the same dataset, seed and budget."""
    keys = ["dataset", "seed", "step"]
    base = long[long["curve"] == "IVF-RR (rigid)"].set_index(keys)["value"]
    if base.empty:
        return long.iloc[:0]
    other = long[long["curve"] != "IVF-RR (rigid)"]
    paired = other.join(base.rename("base"), on=keys).dropna(subset=["base"])
    return paired.assign(value=paired["value"] - paired["base"])


def _panels(axes, long: pd.DataFrame, names: list[str], curves, xlabel: str, ticks=None) -> None:
    """A panel for each dataset; the ticks are the steps where none are given."""
    looks = plotting.styles(curves)
    for k, ax in enumerate(axes):
        part = long[long["dataset"] == names[k]] if k < len(names) else long.iloc[:0]
        if part.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x", ticks=ticks or sorted(part["step"].unique()))
        for name in curves:
            if (part["curve"] == name).any():
                plotting.series(ax, part[part["curve"] == name], "step", "value", by=None, reducer="median")
                _dress(ax, looks[name])
        ax.set(title=plotting.label(names[k]), xlabel=xlabel, ylabel="top-1" if k == 0 else "")


def _dress(ax, look: dict) -> None:
    """The curve drawn last, and its band, in this look."""
    line = ax.lines[-1]
    line.set(color=look["color"], marker=look["marker"], linestyle=look["linestyle"], label=look["label"])
    if ax.collections:
        ax.collections[-1].set_facecolor(look["color"])


def _datasets(records: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(records["dataset"])) if len(records) else []


def compute(records: pd.DataFrame) -> Figure:
    """Top-1 against the budget of multiply-adds, a column for each dataset; below, less the rigid IVF's."""
    fig, axes = plotting.figure(columns=2, rows=2, cols=3, height=11.5)
    long, names = _curves(records, _COMPUTE), _datasets(records)
    ticks = (1000, 7000, 52000)
    _panels(axes[0], long, names, _COMPUTE, "", ticks)
    _panels(axes[1], _against_rigid(long), names, _COMPUTE, "multiply-adds per query", ticks)
    for k, (above, below) in enumerate(zip(*axes, strict=True)):
        if k < len(names):
            top = long[(long["dataset"] == names[k]) & (long["step"] >= 1000)]["value"]
            if len(top):
                above.set_ylim(0.9 * top.min(), 1.02 * top.max())
                below.axhline(0, color="#666666", linewidth=0.8)
                below.set_ylim(-0.1, 0.15)
        below.set(title="", ylabel="top-1 less IVF-RR's" if k == 0 else "")
    plotting.legend(fig, ncols=3)
    return fig


def bits(records: pd.DataFrame) -> Figure:
    """Top-1 against bits a vector: codes alone above, within cells and on a graph below."""
    fig, axes = plotting.figure(columns=2, rows=2, cols=3, height=11.5)
    names = _datasets(records)
    _panels(axes[0], _curves(records, _CODES), names, _CODES, "")
    _panels(axes[1], _curves(records, _COMPOSITES), names, _COMPOSITES, "bits per vector")
    for ax in axes[1]:
        ax.set_title("")
    axes[0, 0].set_ylabel("top-1, all codes")
    axes[1, 0].set_ylabel("top-1, cells or graph")
    for ax in axes[:, 0]:
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.55 * (high - low), high)  # room for the legend
        plotting.legend(ax, loc="lower right", fontsize=6.5)
    return fig


def dimensions(records: pd.DataFrame) -> Figure:
    """Exact search by dimension."""
    fig, axes = plotting.figure(columns=2, cols=3, height=6.2)
    _panels(axes, _curves(records, _EXACT), _datasets(records), _EXACT, "dimensions")
    plotting.legend(fig)
    return fig
