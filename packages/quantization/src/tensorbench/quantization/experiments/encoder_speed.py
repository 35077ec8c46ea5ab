"""How fast operands are recoded and arrays simulated, in one process on one thread.

The peer of the recoder is what the equations say digit by digit, in NumPy; the peer of the array is NumPy's integer
matrix product, which counts no cycle.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.quantization.ent import activity
from tensorbench.quantization.ent.arrays import make_array
from tensorbench.quantization.ent.encoders import get_encoder

METHODS = {"ent": "ent"}
DIGITS_PER_VALUE = 4


def digit_by_digit(x: np.ndarray) -> np.ndarray:
    """EN-T's digits of int8 numbers, one after the other."""
    m = np.abs(x.astype(np.int64))
    digits, carry = [], np.zeros(m.shape, dtype=bool)
    for i in range(DIGITS_PER_VALUE):
        pair = (m >> (2 * i)) & 3
        e = (pair + carry) & 3
        digits.append(np.where(e == 3, -1, e))
        carry = (pair == 3) | ((pair >= 2) & carry)
    return np.stack(digits, axis=-1)


def run(run: Run) -> None:
    """Recoders first, then one array with and without activity."""
    options, rng = run.method.params, run.rng
    x = rng.integers(-128, 128, options["values"], dtype=np.int8)
    encoder = get_encoder("ent", 8)
    same = bool((encoder.encode(x).digits == digit_by_digit(x)).all())
    rivals = {"table": lambda: encoder.encode(x), "digit_by_digit": lambda: digit_by_digit(x)}
    seconds = compare(rivals, repeats=3, warmup=3)  # the first calls in a process still get their memory
    run.log(
        same_digits=same,
        digits_per_second=DIGITS_PER_VALUE * len(x) / seconds["table"],
        digit_by_digit_per_second=DIGITS_PER_VALUE * len(x) / seconds["digit_by_digit"],
        encode_speedup=seconds.speedup("table", "digit_by_digit").value,
    )
    size = options["size"]
    A, B = (rng.integers(-128, 128, (size, size)) for _ in range(2))
    array = make_array("systolic_os", options["multipliers"], kind="ent", placement="edge")
    pair = compare({"cycles": lambda: array.run(A, B), "numpy": lambda: A @ B}, repeats=3, min_seconds=0)
    activity.measure(array, A[:64, :16], B[:16, :64])
    with measure() as cost:
        activity.measure(array, A, B)
    run.log(cycles_seconds=pair["cycles"], numpy_seconds=pair["numpy"], activity_seconds=cost.seconds)
    small = make_array("systolic_os", 256, kind="ent", placement="edge")
    for k in options["lengths"]:
        a, b = rng.integers(-128, 128, (16, k)), rng.integers(-128, 128, (k, 16))
        small.run(a[:, :8], b[:8])
        run.log(step=k, cycles_seconds_by_k=compare({"a": lambda a=a, b=b: small.run(a, b), "b": lambda: None})["a"])


def log10_digits_per_second(records: pd.DataFrame) -> list[float]:
    """Per seed, the power of ten of the digits a second."""
    return np.log10(records["digits_per_second"]).tolist()


def log2_encode_speedup(records: pd.DataFrame) -> list[float]:
    """Per seed, how often the speed-up doubles."""
    return np.log2(records["encode_speedup"]).tolist()


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds of the cycle simulation against K."""
    fig, ax = plotting.figure(height=6.5)
    history = rec.history(records, "cycles_seconds_by_k") if len(records) else pd.DataFrame()
    if history.empty:
        plotting.empty(ax)
    else:
        plotting.log_axis(ax, "x", ticks=sorted(history["step"].unique()))
        plotting.log_axis(ax, "y")
        plotting.series(ax, history, "step", "value")
        middle = history[history["step"] == history["step"].max()]["value"].mean()
        plotting.guide(ax, 1.0, through=(float(history["step"].max()), float(middle)))
        ax.set(xlabel="length K of the sums", ylabel="time of one tile (s)")
        plotting.legend(fig)
    yield "time", fig
