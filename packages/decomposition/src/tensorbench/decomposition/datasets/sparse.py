"""Sparse tensors as lists of cells: index tuples with a value, split at random into training, validation and test.

Every loader returns a :class:`~tensorbench.decomposition.completion.sparse.Split` whose values are standardised by the
training cells. The seed decides the split: 10 % test, a fifth of the rest for validation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tensorbench.core.data import File, dataset, get
from tensorbench.decomposition.completion.sparse import SparseTensorData, Split, load_tensor, split_cells
from tensorbench.decomposition.datasets import completion

ROUNDS = 100  # of draws, before a tensor with a strong skew is given up


@dataset(
    title="A low-rank tensor with noise, a few per cent of its cells observed",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
)
def low_rank_cells(
    *,
    seed: int,
    dims: Sequence[int] = (20, 20, 50),
    cells: int = 2000,
    rank: int = 3,
    noise: float = 0.1,
    skew: float = 1.0,
    mean: float = 1.0,
) -> Split:
    """Σ_r Π_k a_k[i_k, r] scaled to unit variance, plus noise; the truth is known. Factors are normal around ``mean``.

    Entity j of a mode is drawn with weight (j + 1)^-skew, as users and items are, until there are enough different
    cells; as cells count once, the share of the frequent entities comes out below their weight.
    """
    dims = tuple(int(n) for n in dims)
    if len(dims) < 2 or cells < 5 or rank < 1 or noise < 0 or skew < 0:
        raise ValueError(f"dims {dims}, cells {cells}, rank {rank}, noise {noise}, skew {skew}: too small")
    if 2 * cells > np.prod(dims, dtype=float):
        raise ValueError(f"{cells} cells are more than half of a {dims} tensor, which is not sparse")
    rng = np.random.default_rng(seed)
    factors = [mean + rng.standard_normal((n, rank)) for n in dims]
    weights = [(np.arange(n) + 1.0) ** -skew for n in dims]
    drawn = np.zeros((0, len(dims)), dtype=np.int64)
    for _ in range(ROUNDS):
        if len(drawn) >= cells:
            break
        new = [rng.choice(n, size=2 * cells, p=w / w.sum()) for n, w in zip(dims, weights, strict=True)]
        drawn = np.unique(np.concatenate([drawn, np.stack(new, axis=1)]), axis=0)
    if len(drawn) < cells:
        raise ValueError(
            f"{ROUNDS} rounds of {2 * cells} draws found {len(drawn)} different cells, not {cells}: skew {skew} is too "
            "strong; use a smaller one or fewer cells"
        )
    idx = drawn[rng.choice(len(drawn), size=cells, replace=False)]
    scale = float(np.std(_low_rank(factors)(idx)))
    truth = _low_rank(factors, scale)
    data = SparseTensorData(idx, truth(idx) + noise * rng.standard_normal(cells), dims)
    return split_cells(data, seed, truth=truth).standardised()


def _low_rank(factors: list[np.ndarray], scale: float = 1.0) -> Callable[[np.ndarray], np.ndarray]:
    return lambda idx: np.prod([f[i] for f, i in zip(factors, idx.T, strict=True)], axis=0).sum(axis=1) / scale


@dataset(
    title="Random values in random cells, to measure time with",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
)
def random_cells(*, seed: int, dims: Sequence[int] = (1000, 1000, 1000), cells: int = 10_000) -> Split:
    """Indices uniform, values normal; nothing to learn. A cell may come up twice."""
    rng = np.random.default_rng(seed)
    idx = np.stack([rng.integers(n, size=cells) for n in dims], axis=1)
    return split_cells(SparseTensorData(idx, rng.standard_normal(cells), tuple(dims)), seed).standardised()


@dataset(
    title="synthetic_10K, 10,000 cells of a 1000 × 1000 × 1000 tensor",
    source="the authors of DAIN",
    licence="Apache-2.0",
    files=[
        File(
            path="data/synthetic_10K.tensor",
            sha256="46bfbc7be6c6a0f177388da6c7da649e65b2d8bfc917d55f086f7c381e4f1a1a",
            bytes=206623,
            repository="srijankr/DAIN",
            commit="89edec24e63383dfd5ef19f2bfb48d11b75b3dde",
            licence="Apache-2.0",
        )
    ],
)
def synthetic_10k(files: list[Path], *, seed: int) -> Split:
    """Ten cells per entity in the mean; how the values were made is not stated."""
    return split_cells(load_tensor(files[0], dims=(1000,) * 3), seed).standardised()


@dataset(
    title="Beijing PM2.5 as 11,954 cells of a 428 × 501 × 1461 tensor",
    source="UCI Beijing Multi-Site Air Quality, binned by the authors of FunBaT",
    licence="MIT",
    files=get("beijing_pm25").files,
)
def beijing_cells(files: list[Path], *, seed: int) -> Split:
    """Temperature × pressure × time; the bins are taken as entities without an order."""
    return split_cells(_bins(completion.beijing_pm25(files, seed=0, fold=0)), seed).standardised()


@dataset(
    title="US temperature, some cells of a 15 × 95 × 267 tensor",
    source="Berkeley Earth, binned by the authors of FunBaT",
    licence="MIT",
    files=get("us_temperature").files,
)
def us_temperature_cells(files: list[Path], *, seed: int, cells: int = 6000) -> Split:
    """Latitude × longitude × time; ``cells`` of the 19,678 observed cells, each the mean of its cities."""
    data = _bins(completion.us_temperature(files, seed=0, fold=0))
    if not 5 <= cells <= len(data):
        raise ValueError(f"cells {cells} must be between 5 and the {len(data)} observed ones")
    order = np.random.default_rng(seed).permutation(len(data))
    return split_cells(data.take(order[:cells]), seed).standardised()


def _bins(scattered: completion.Scattered) -> SparseTensorData:
    """All entries by the bin that their coordinates are the centre of, one cell a bin (the mean of its entries)."""
    coordinates = np.concatenate([scattered.train_idx, scattered.test_idx])
    values = np.concatenate([scattered.train_y, scattered.test_y])
    low, high = scattered.extent.T
    bins = np.floor((coordinates - low) / (high - low) * scattered.shape)
    return SparseTensorData(bins, values, scattered.shape).merged("mean")
