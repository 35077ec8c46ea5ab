"""Energy of one multiply-accumulate by the width of its operands, from the gates of this package's circuits.

A multiplier with its recoder, its compressor tree and an accumulator's adder works through a stream of operands; what
its gates and the accumulator's register do is counted and costed as for whole arrays (``activity``, ``costs``).
Memories and wires between cells are not in it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from .circuits import mac_circuit
from .costs import Activity, GateModel
from .netlist import simulate, to_words, toggles

_LANES, _CYCLES = 64, 64
_SPREAD = 4.0  # standard deviations of the operands within half their range


def mac_joules(
    bits: int, *, kind: str = "mbe", accumulator: int = 48, model: GateModel | None = None, seed: int = 0
) -> float:
    """Joules of ``acc + a · b`` with normal operands of ``bits`` bits, in steady work.

    Operands of an odd width go through the next even one's circuit, whose upper bits then move together: recoders
    take two bits at a time.

    Raises:
        ValueError: a width outside 2 to 20, or an unknown recoder.
    """
    if not 2 <= bits <= 20:
        raise ValueError(f"operands of {bits} bits; 2 to 20 are costed")
    rng = np.random.default_rng(seed)
    largest = 2 ** (bits - 1) - 1
    a, b = (
        np.clip(np.round(rng.normal(0, max(largest / _SPREAD, 0.6), (_CYCLES, _LANES))), -largest, largest)
        for _ in range(2)
    )
    a, b = a.astype(np.int64), b.astype(np.int64)
    after = np.cumsum(a * b, axis=0)
    before = np.concatenate([np.zeros((1, _LANES), np.int64), after[:-1]])
    net = mac_circuit(kind, bits + bits % 2, accumulator=accumulator)
    counted = Counter(simulate(net, {"a": a, "b": b, "acc": before}, activity=True, outputs=False).toggles)
    counted["sums", "DFF"] += sum(toggles(word) for word in to_words(after, accumulator))
    macs = a.size
    work = Activity(counted, Counter(sums=macs * accumulator), _CYCLES, macs)
    return sum((model or GateModel()).energy(work).values()) / macs * 1e-15
