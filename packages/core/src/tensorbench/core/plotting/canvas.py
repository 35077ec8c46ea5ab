"""The page: figures in the paper's sizes and style, axes helpers, legends, and writing files that never change by
themselves.

Figures are made without pyplot: always Agg, no display needed, and nothing is kept alive behind the caller's back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from tensorbench.core import record

COLUMN_CM = 8.0  # the paper's text is 16 cm wide: one column is a figure that shares a line with another
_CM = 1 / 2.54

# STIX comes with matplotlib, so that a figure looks the same on every machine, and stands well beside a serif text.
STYLE: Any = {
    "font.family": "serif",
    "font.serif": ["STIXGeneral"],
    "mathtext.fontset": "stix",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-3, 4),
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 2.0,
    "legend.columnspacing": 1.4,
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "tensorbench",
}


def figure(
    columns: int = 1, rows: int = 1, cols: int = 1, height: float | None = None, **subplots: Any
) -> tuple[Figure, Any]:
    """A figure in the paper's style: 8 cm wide for ``columns=1``, 16 cm for ``columns=2``, with rows × cols axes.

    ``height`` is in cm (default: panels of a pleasant shape). Further keywords go to ``Figure.subplots``
    (``sharey=True``, ``gridspec_kw=…``). Returns the figure and its axes: one ``Axes``, or an array of them if there
    are several.
    """
    if columns not in (1, 2):
        raise ValueError(f"columns={columns!r} is not a width of the paper; use 1 (8 cm) or 2 (16 cm)")
    if rows < 1 or cols < 1:
        raise ValueError(f"a figure needs at least one row and one column of axes; got rows={rows}, cols={cols}")
    matplotlib.rcParams.update(STYLE)
    width = COLUMN_CM * columns
    if height is None:
        height = rows * (0.8 + min(5.4, max(3.6, 0.70 * width / cols)))
    fig = Figure(figsize=(width * _CM, height * _CM), layout="constrained")
    FigureCanvasAgg(fig)
    return fig, fig.subplots(rows, cols, **subplots)


def log_axis(ax: Axes, which: str = "y", *, ticks: Sequence[float] | None = None) -> None:
    """Logarithmic ``x``, ``y`` or ``xy`` axis; ``ticks`` (sizes, ranks) are shown as plain numbers, not powers."""
    if which not in ("x", "y", "xy"):
        raise ValueError(f"which={which!r} is not an axis; use 'x', 'y' or 'xy'")
    for name in which:
        (ax.set_xscale if name == "x" else ax.set_yscale)("log")
        axis = ax.xaxis if name == "x" else ax.yaxis
        if ticks is not None:
            axis.set_major_locator(ticker.FixedLocator(list(ticks)))
            axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.12g}".replace(",", "\u2009")))
            axis.set_minor_locator(ticker.NullLocator())


def reference(ax: Axes, *, y: float | None = None, x: float | None = None, text: str = "") -> None:
    """The paper's own number (or a bound) as a thin dashed line at ``y`` or at ``x``, with a small ``text`` beside."""
    if (x is None) == (y is None):
        raise ValueError("a reference line needs exactly one of y= and x=")
    drawn: Any = {"color": "#666666", "linewidth": 0.8, "linestyle": (0, (4, 2)), "zorder": 1.5}
    words: Any = {"color": "#444444", "fontsize": 7.5, "textcoords": "offset points"}
    halo: Any = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    if y is not None:
        ax.axhline(y, **drawn)
        if text:
            ax.annotate(text, (1, y), xycoords=("axes fraction", "data"), xytext=(-2, 2), ha="right", va="bottom",
                        bbox=halo, **words)  # fmt: skip
    if x is not None:
        ax.axvline(x, **drawn)
        if text:
            ax.annotate(text, (x, 1), xycoords=("data", "axes fraction"), xytext=(-2, -2), ha="right", va="top",
                        rotation=90, bbox=halo, **words)  # fmt: skip


def guide(ax: Axes, exponent: float, *, through: tuple[float, float], text: str | None = None) -> None:
    """On log-log axes, a dotted line of slope ``exponent`` through a point, to compare with; keeps the limits."""
    x_limits, y_limits = ax.get_xlim(), ax.get_ylim()
    x = (np.geomspace if ax.get_xscale() == "log" else np.linspace)(x_limits[0], x_limits[1], 50)
    y = through[1] * (x / through[0]) ** exponent
    line_text = f"slope {exponent:g}".replace("-", "−") if text is None else text
    ax.plot(x, y, color="#666666", linewidth=0.8, linestyle=":", marker="", label=line_text, zorder=1.5)
    ax.set_xlim(x_limits)
    ax.set_ylim(y_limits)


def empty(ax: Axes, text: str = "no records") -> None:
    """Say in the middle of the axes that there is nothing to draw, and why."""
    ax.tick_params(labelbottom=False, labelleft=False, length=0)
    ax.grid(False)
    ax.text(
        0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="#888888", fontsize=8, style="italic"
    )


def nothing(text: str = "no records") -> Figure:
    """A figure that says that there is nothing to draw, and why."""
    fig, ax = figure()
    empty(ax, text)
    return fig


def bare(ax: Axes) -> None:
    """Axes that hold a picture: no ticks, grid or frame; titles and labels stay."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)


def legend(
    where: Figure | Axes, *, ncols: int | None = None, title: str | None = None, **keywords: Any
) -> Legend | None:
    """One legend: inside the axes, or for a figure one for all its axes, below them.

    Each label stands once. Returns None where nothing has a label. Further keywords go to matplotlib's ``legend``.
    """
    axes = where.axes if isinstance(where, Figure) else [where]
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    if not entries:
        return None
    arguments: dict[str, Any] = {"handles": list(entries.values()), "labels": list(entries), "title": title} | keywords
    if isinstance(where, Axes):
        return where.legend(ncols=ncols or 1, **arguments)
    if ncols is None:
        # About 1.5 mm a letter in 8 pt plus the handle: as many columns as the figure's width holds.
        widest = 0.9 + 0.15 * max(map(len, entries))
        ncols = max(1, min(len(entries), int(where.get_figwidth() / _CM / widest)))
    return where.legend(**({"loc": "outside lower center", "ncols": ncols} | arguments))


class _LogLabels(ticker.LogFormatterMathtext):
    """Powers of ten as powers, and what is labelled between them as plain numbers: 0.06, not 6 × 10⁻²."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = super().__call__(x, pos)
        power = x > 0 and abs(np.log10(x) - round(np.log10(x))) < 1e-9
        return f"{x:.4g}" if text and not power and 1e-3 <= x < 1e4 else text


def _label_log_axes(fig: Figure) -> None:
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if axis.get_scale() == "log" and isinstance(axis.get_minor_formatter(), ticker.LogFormatter):
                axis.set_minor_formatter(_LogLabels(labelOnlyBase=False))


def save(fig: Figure, path: str | Path, *, png: bool = False) -> list[Path]:
    """Write ``path``.pdf, ``path``.svg and, where asked, ``path``.png (150 dpi); returns the paths.

    Each file appears whole or not at all, and the same figure gives the same bytes: no dates, no random ids.
    """
    path = Path(path)
    _label_log_axes(fig)
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"CreationDate": None, "ModDate": None},
        "svg": {"Date": None},
        "png": {"Software": None},
    }
    written = []
    for suffix in ("pdf", "svg", "png") if png else ("pdf", "svg"):
        target = path.with_name(f"{path.name}.{suffix}")
        with record.atomic(target) as temporary, matplotlib.rc_context(STYLE):
            if suffix == "png":
                fig.savefig(temporary, format=suffix, metadata=metadata[suffix])
            else:
                # What savefig does, without its drawing everything twice: that took a third of the time of a report.
                _canvas(fig, suffix, temporary, metadata[suffix])
        fig.set_layout_engine("none")  # as it stands: laying out costs more than drawing, and all formats look alike
        written.append(target)
    return written


def _canvas(fig: Figure, suffix: str, path: Path, metadata: dict[str, Any]) -> None:
    """Draw once on the canvas of a vector format; laying out is part of drawing."""
    before = fig.canvas
    try:
        if suffix == "pdf":
            FigureCanvasPdf(fig).print_pdf(path, metadata=metadata)
        else:
            FigureCanvasSVG(fig).print_svg(path, metadata=metadata)
    finally:
        fig.set_canvas(before)
