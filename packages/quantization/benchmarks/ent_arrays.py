"""Recoding and cycle-by-cycle arrays against NumPy on the same work.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/quantization/benchmarks/ent_arrays.py

Prints digits a second of every recoder beside EN-T digit by digit, and seconds of every array of 64 × 64 multipliers on
256 × 256 × 256 (target: 3 s without activity, 30 s with) beside NumPy's integer product.
"""

from __future__ import annotations

import numpy as np

from tensorbench.core.timing import compare, measure
from tensorbench.quantization.ent import activity
from tensorbench.quantization.ent.arrays import ARRAYS, make_array
from tensorbench.quantization.ent.encoders import ENCODERS, get_encoder
from tensorbench.quantization.experiments.encoder_speed import digit_by_digit


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, 2_000_000, dtype=np.int8)
    work = {kind: (lambda kind=kind: get_encoder(kind).encode(x)) for kind in ENCODERS}
    seconds = compare(work | {"digit by digit": lambda: digit_by_digit(x)}, repeats=3)
    for kind, value in seconds.items():
        digits = get_encoder(kind).n_digits if kind in ENCODERS else 4
        print(f"{kind:15s} {digits * len(x) / value / 1e6:8.0f} million digits/s")

    A, B = (rng.integers(-128, 128, (256, 256)) for _ in range(2))
    arrays = {name: make_array(name, 4096) for name in ARRAYS}
    seconds = compare({n: (lambda a=a: a.run(A, B)) for n, a in arrays.items()} | {"numpy": lambda: A @ B}, repeats=2)
    for name, value in seconds.items():
        print(f"{name:15s} {value:8.3f} s")
    with measure() as cost:
        activity.measure(arrays["systolic_os"], A, B)
    print(f"with activity   {cost.seconds:8.3f} s, {cost.peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
