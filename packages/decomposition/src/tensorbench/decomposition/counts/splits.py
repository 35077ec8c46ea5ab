"""Splits of count tensors: by tokens (thinning), and by time and activity (strong generalisation)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def thin_split(
    Y: Int[np.ndarray, "V V2 A T"], p: float, generator: np.random.Generator
) -> tuple[Int[np.ndarray, "V V2 A T"], Int[np.ndarray, "V V2 A T"]]:
    """(kept, held out): every event is held out with probability ``p``, independently.

    If Y is Poisson, both parts are independent Poisson tensors with rates (1 - p) and p times those of Y, so a model of
    the kept part predicts the held-out one at p / (1 - p) times its rate. Raises ValueError for p outside (0, 1) or
    counts that are not whole numbers >= 0.
    """
    if not 0 < p < 1:
        raise ValueError(f"p={p} is the share of events held out; it must lie between 0 and 1")
    if not np.issubdtype(np.asarray(Y).dtype, np.integer) or (np.asarray(Y) < 0).any():
        raise ValueError("thinning needs whole numbers >= 0 of an integer type")
    held = generator.binomial(Y, p)
    return Y - held, held


def strong_generalisation_split(
    T_test: int, top_actors: int, Y: Int[np.ndarray, "V V2 A T"]
) -> tuple[Int[np.ndarray, "V V2 A T1"], Int[np.ndarray, "V V2 A T2"], Int[np.ndarray, "V V2"]]:
    """(train, test, mask): the last ``T_test`` time steps are new, and in them only the ``top_actors`` are observed.

    Fit on ``train`` with everything observed; then fit the new steps' regimes alone (``BPTD.partial_fit``) on ``test``
    with the 0/1 ``mask`` of pairs of the most active actors; score the other pairs of ``test``. Activity is counted in
    ``train``, so that nothing of the test part enters.
    """
    V, _, _, T = Y.shape
    if not 1 <= T_test < T:
        raise ValueError(f"T_test={T_test} must leave at least one of the {T} time steps for training")
    if not 2 <= top_actors <= V:
        raise ValueError(f"top_actors={top_actors} must lie between 2 and the number of actors, {V}")
    train, test = Y[..., :-T_test], Y[..., -T_test:]
    activity = train.sum(axis=(1, 2, 3)) + train.sum(axis=(0, 2, 3))
    active = np.zeros(V, dtype=np.int64)
    active[np.argsort(-activity, kind="stable")[:top_actors]] = 1
    mask = np.outer(active, active)
    np.fill_diagonal(mask, 0)
    return train, test, mask
