"""One matplotlib style for every figure of the paper, and the few drawings that nearly all of them are made of.

>>> fig, ax = plotting.figure(columns=1)
>>> plotting.bars(ax, records, "test_rmse", log=True)
>>> plotting.reference(ax, y=0.37, text="paper")
>>> plotting.legend(ax)
"""

from tensorbench.core.plotting.canvas import (
    STYLE,
    bare,
    empty,
    figure,
    guide,
    legend,
    log_axis,
    nothing,
    reference,
    save,
)
from tensorbench.core.plotting.draw import bars, series
from tensorbench.core.plotting.labels import label, set_labels
from tensorbench.core.plotting.looks import set_methods, style, styles

__all__ = [
    "STYLE", "bare", "bars", "empty", "figure", "guide", "label", "legend", "log_axis", "nothing", "reference", "save",
    "series", "set_labels", "set_methods", "style", "styles",
]  # fmt: skip
