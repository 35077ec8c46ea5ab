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
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["dataset", "curve", "step", "value"])


def _panels(axes, records: pd.DataFrame, curves: dict[str, tuple[str, str]], xlabel: str, ticks=None) -> None:
    """A panel for each dataset; the ticks are the steps where none are given."""
    long = _curves(records, curves)
    names = list(dict.fromkeys(long["dataset"]))
    for k, ax in enumerate(axes):
        if k >= len(names):
            plotting.empty(ax)
            continue
        part = long[long["dataset"] == names[k]]
        steps = sorted(part["step"].unique())
        plotting.log_axis(ax, "x", ticks=ticks or steps)
        plotting.series(ax, part, "step", "value", by="curve", order=[c for c in curves if (part["curve"] == c).any()])
        ax.set(title=plotting.label(names[k]), xlabel=xlabel, ylabel="top-1" if k == 0 else "")


def compute(records: pd.DataFrame) -> Figure:
    """Top-1 against the budget of multiply-adds, a panel for each dataset."""
    fig, axes = plotting.figure(columns=2, cols=3, height=7.2)
    _panels(axes, records, _COMPUTE, "multiply-adds per query", ticks=(1000, 7000, 52000))
    plotting.legend(fig, ncols=3)
    return fig


def bits(records: pd.DataFrame) -> Figure:
    """Top-1 against bits a vector: codes alone above, within cells and on a graph below."""
    fig, axes = plotting.figure(columns=2, rows=2, cols=3, height=11.5)
    _panels(axes[0], records, _CODES, "")
    _panels(axes[1], records, _COMPOSITES, "bits per vector")
    for ax in axes[1]:
        ax.set_title("")
    axes[0, 0].set_ylabel("top-1, all codes")
    axes[1, 0].set_ylabel("top-1, cells or graph")
    for ax in axes[:, 0]:
        plotting.legend(ax, loc="lower right", fontsize=6.5)
    return fig


def dimensions(records: pd.DataFrame) -> Figure:
    """Exact search by dimension."""
    fig, axes = plotting.figure(columns=2, cols=3, height=6.2)
    _panels(axes, records, _EXACT, "dimensions")
    plotting.legend(fig)
    return fig
