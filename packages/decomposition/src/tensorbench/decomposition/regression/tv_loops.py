"""The loop behind ``prox``: the exact proximal operator of the total variation of a sequence, compiled.

L. Condat's direct algorithm (IEEE Signal Processing Letters 20, 2013) scans the sequence once and steps back to the
last possible jump where a segment has to end; O(n) in practice, O(n^2) on contrived data.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def prox_tv_rows(y: np.ndarray, lam: float, out: np.ndarray) -> None:
    """For every row of ``y`` (m, n): argmin_x 0.5 |x - y|^2 + lam sum_i |x_{i+1} - x_i|, into ``out``.

    ``low`` and ``high`` bound the value of the segment that begins at ``start``, and ``room_low`` and ``room_high`` are
    the dual variables at k if it had them; ``last_down`` and ``last_up`` are where it could still end with a jump.
    """
    m, n = y.shape
    for r in range(m):
        row, x = y[r], out[r]
        start = k = last_down = last_up = 0
        low, high = row[0] - lam, row[0] + lam
        room_low, room_high = lam, -lam
        while True:
            if k == n - 1:  # the end: the path must come back to the data's sum
                if room_low < 0.0:
                    while start <= last_down:
                        x[start] = low
                        start += 1
                    k = last_down = start
                    low, room_low = row[start], lam
                    room_high = low + lam - high
                elif room_high > 0.0:
                    while start <= last_up:
                        x[start] = high
                        start += 1
                    k = last_up = start
                    high, room_high = row[start], -lam
                    room_low = high - lam - low
                else:
                    value = low + room_low / (k - start + 1)
                    while start <= k:
                        x[start] = value
                        start += 1
                    break
                continue
            following = row[k + 1]
            if following + room_low < low - lam:  # a jump down cannot be avoided
                while start <= last_down:
                    x[start] = low
                    start += 1
                k = last_down = last_up = start
                low = row[start]
                high = low + 2.0 * lam
                room_low, room_high = lam, -lam
            elif following + room_high > high + lam:  # a jump up
                while start <= last_up:
                    x[start] = high
                    start += 1
                k = last_down = last_up = start
                high = row[start]
                low = high - 2.0 * lam
                room_low, room_high = lam, -lam
            else:
                k += 1
                room_low += following - low
                room_high += following - high
                if room_low >= lam:
                    low += (room_low - lam) / (k - start + 1)
                    room_low = lam
                    last_down = k
                if room_high <= -lam:
                    high += (room_high + lam) / (k - start + 1)
                    room_high = -lam
                    last_up = k
