"""Matrices whose distributions try number formats, and floats that try roundings."""

from __future__ import annotations

import numpy as np

from tensorbench.core.data import dataset


@dataset(
    title="Matrices of five distributions",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
)
def synthetic_tensors(
    *, seed: int, samples: int = 2**20, channels: int = 128, normal_only: bool = False
) -> dict[str, np.ndarray]:
    """Float32 matrices of about ``samples`` numbers in rows of ``channels``, blocks along the rows.

    ``normal``, ``laplace``, ``student3`` (three degrees of freedom), ``small`` (normal times 10^-4) and ``outlier``:
    normal with one channel 100 times as large. ``outlier_tokens`` is the last one transposed, so that blocks run along
    the tokens. ``normal_only`` leaves the others out.
    """
    rng = np.random.default_rng(seed)
    shape = (samples // channels, channels)
    normal = rng.standard_normal(shape)
    if normal_only:
        return {"normal": normal.astype(np.float32)}
    outlier = rng.standard_normal(shape)
    outlier[:, rng.integers(channels)] *= 100
    tensors = {
        "normal": normal,
        "laplace": rng.laplace(size=shape),
        "student3": rng.standard_t(3, size=shape),
        "small": normal * 1e-4,
        "outlier": outlier,
        "outlier_tokens": outlier.T,
    }
    return {name: np.ascontiguousarray(x, dtype=np.float32) for name, x in tensors.items()}


@dataset(title="Floats of all magnitudes", source="generated here", licence="Apache-2.0", generated=True)
def float_probe(*, seed: int, count: int = 1_000_000, blocks: int = 100_000) -> dict[str, np.ndarray]:
    """Float32: ``scalars`` over 40 octaves, an eighth of them short binary fractions, which are ties of many formats;
    and ``blocks`` of 32 over all exponents of float32, zeros, powers of two, subnormals and NaN among them.
    """
    rng = np.random.default_rng(seed)
    wide = rng.standard_normal(count - count // 8) * 2.0 ** rng.integers(-22, 18, count - count // 8)
    short = rng.integers(-512, 513, count // 8) / 64 * 2.0 ** rng.integers(-8, 8, count // 8)
    rows = rng.standard_normal((blocks, 32)) * 2.0 ** rng.integers(-150, 124, (blocks, 1))
    rows[:10] = 0.0
    rows[10:20, ::2] = 0.0
    rows[20:60] = 2.0 ** (np.arange(-100, 100, 5)[:, None] + np.arange(32) / 2 // 1)
    rows[60:70, 3] = np.nan
    return {"scalars": np.concatenate([wide, short]).astype(np.float32), "blocks": rows.astype(np.float32)}
