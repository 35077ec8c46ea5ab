"""Sparse tensors as a list of observed cells: index tuples with a value each, read, checked, split and standardised.

A cell is a row of ``idx`` (one entity per mode, whole numbers from 0) and an entry of ``val``. What is not listed is
missing, not zero. :func:`split_cells` makes the parts that neural tensor completion works on (Oh, Kim, Rossi and Kumar
2021, arXiv 2108.10248, step 0): 10 % test, and a fifth of the rest for validation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from tensorbench.core.errors import unknown

Duplicates = Literal["keep", "mean", "first", "error"]
Truth = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SparseTensorData:
    """Observed cells of a tensor of shape ``dims`` (default: the largest index of each mode plus one).

    Raises ValueError for indices that are not whole numbers or lie outside ``dims``, for values that are not finite,
    and for lengths that do not agree. An empty list of cells is allowed only with ``dims``.
    """

    idx: np.ndarray
    val: np.ndarray
    dims: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        idx = _whole_numbers(self.idx)
        val = np.asarray(self.val, dtype=np.float64)
        if val.shape != (len(idx),):
            raise ValueError(f"val has shape {val.shape}; idx has {len(idx)} cells, so val must have ({len(idx)},)")
        if not np.isfinite(val).all():
            raise ValueError(f"val has {int((~np.isfinite(val)).sum())} NaN or infinite values; drop those cells")
        if not len(self.dims):
            if not len(idx):
                raise ValueError("there are no cells, so dims cannot be inferred; give dims=(...)")
            object.__setattr__(self, "dims", tuple(int(n) + 1 for n in idx.max(axis=0)))
        dims = tuple(int(n) for n in self.dims)
        if len(dims) != idx.shape[1]:
            raise ValueError(f"dims {dims} has {len(dims)} modes; idx has {idx.shape[1]}")
        for mode, (n, column) in enumerate(zip(dims, idx.T, strict=True)):
            if len(column) and column.min() < 0:
                raise ValueError(f"mode {mode} has the negative index {column.min()}; indices count from 0")
            if len(column) and column.max() >= n:
                raise ValueError(f"mode {mode} has index {column.max()} but only {n} entities; use dims >= max + 1")
        for name, value in (("idx", idx), ("val", val), ("dims", dims)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.val)

    @property
    def order(self) -> int:
        """The number of modes K."""
        return len(self.dims)

    def take(self, rows: Int[np.ndarray, " m"]) -> SparseTensorData:
        """The cells at these rows."""
        return replace(self, idx=self.idx[rows], val=self.val[rows])

    def join(self, other: SparseTensorData) -> SparseTensorData:
        """The cells of both, in this order; the shapes must agree."""
        if other.dims != self.dims:
            raise ValueError(f"cells of a {other.dims} tensor cannot be joined to those of a {self.dims} tensor")
        return replace(self, idx=np.concatenate([self.idx, other.idx]), val=np.concatenate([self.val, other.val]))

    def counts(self) -> list[np.ndarray]:
        """Per mode, how many cells each entity is in."""
        return [np.bincount(column, minlength=n) for column, n in zip(self.idx.T, self.dims, strict=True)]

    def merged(self, duplicates: Duplicates) -> SparseTensorData:
        """Cells that are listed several times: kept, averaged, reduced to the first, or refused (ValueError)."""
        if duplicates not in ("keep", "mean", "first", "error"):
            raise ValueError(unknown("duplicates", str(duplicates), ["keep", "mean", "first", "error"]))
        if duplicates == "keep":
            return self
        cells, first, group = np.unique(self.idx, axis=0, return_index=True, return_inverse=True)
        if len(cells) == len(self):
            return self
        if duplicates == "error":
            raise ValueError(f"{len(self) - len(cells)} cells repeat others; use duplicates='mean', 'first' or 'keep'")
        if duplicates == "first":
            return self.take(np.sort(first))
        group = group.reshape(-1)
        return replace(self, idx=cells, val=np.bincount(group, weights=self.val) / np.bincount(group))

    def statistics(self) -> dict[str, float]:
        """Cells, distinct cells, density, moments of the values, entities seen and the median cells per seen entity."""
        distinct = len(np.unique(self.idx, axis=0))
        seen = [count[count > 0] for count in self.counts()]
        return {
            "cells": len(self),
            "distinct": distinct,
            "density": distinct / float(np.prod(self.dims, dtype=float)),
            "mean": float(self.val.mean()) if len(self) else np.nan,
            "std": float(self.val.std()) if len(self) else np.nan,
            "entities": sum(self.dims),
            "seen": sum(map(len, seen)),
            "cells_per_entity": float(np.median(np.concatenate(seen))) if len(self) else 0.0,
        }


@dataclass(frozen=True)
class Split:
    """Training, validation and test cells of one tensor; ``truth`` gives noise-free values where they are known."""

    train: SparseTensorData
    valid: SparseTensorData
    test: SparseTensorData
    truth: Truth | None = None

    def standardised(self) -> Split:
        """All values minus the mean of the training cells, over their standard deviation (1 where that is 0)."""
        mean, std = float(self.train.val.mean()), float(self.train.val.std()) or 1.0
        parts = [replace(part, val=(part.val - mean) / std) for part in (self.train, self.valid, self.test)]
        truth = self.truth
        return Split(*parts, truth=None if truth is None else lambda idx: (truth(idx) - mean) / std)


def split_cells(
    data: SparseTensorData, seed: int, test_share: float = 0.1, valid_share: float = 0.2, truth: Truth | None = None
) -> Split:
    """Random parts: ``test_share`` of the cells for test, ``valid_share`` of the others for validation.

    Raises ValueError where a part would be empty.
    """
    if not (0 < test_share < 1 and 0 < valid_share < 1):
        raise ValueError(f"test_share {test_share} and valid_share {valid_share} must be between 0 and 1")
    tests = round(test_share * len(data))
    valids = round(valid_share * (len(data) - tests))
    trains = len(data) - tests - valids
    if min(tests, valids, trains) < 1:
        raise ValueError(
            f"{len(data)} cells make an empty part ({trains} training, {valids} validation, {tests} test); "
            "use more cells or other shares"
        )
    order = np.random.default_rng(seed).permutation(len(data))
    test, valid, train = np.split(order, [tests, tests + valids])
    return Split(data.take(train), data.take(valid), data.take(test), truth)


def load_tensor(
    path: str | Path,
    dims: Sequence[int] = (),
    duplicates: Duplicates = "keep",
    separator: str = "\t",
    first_index: int = 0,
) -> SparseTensorData:
    """A text file with a cell a line, the indices and then the value. ``first_index=1`` for files that count from 1."""
    import pandas as pd

    table = pd.read_csv(path, sep=separator, header=None).to_numpy(dtype=np.float64)
    if table.shape[1] < 3:
        raise ValueError(f"{path}: {table.shape[1]} columns; two or more indices and a value are expected")
    return SparseTensorData(table[:, :-1] - first_index, table[:, -1], tuple(dims)).merged(duplicates)


def save_tensor(data: SparseTensorData, path: str | Path, separator: str = "\t") -> None:
    """Write what :func:`load_tensor` reads; values keep all their digits."""
    rows = zip(data.idx.tolist(), data.val.tolist(), strict=True)
    lines = [separator.join([*map(str, cell), repr(value)]) for cell, value in rows]
    Path(path).write_text("\n".join(lines) + "\n", encoding="ascii")


def load_npz(path: str | Path, duplicates: Duplicates = "keep") -> SparseTensorData:
    """The arrays ``idx``, ``val`` and, where it is there, ``dims`` of an ``.npz`` file."""
    with np.load(path, allow_pickle=False) as stored:
        for name in ("idx", "val"):
            if name not in stored:
                raise ValueError(f"{path} has no array {name!r}; it has {', '.join(stored.files) or 'none'}")
        dims = tuple(stored["dims"].tolist()) if "dims" in stored else ()
        return SparseTensorData(stored["idx"], stored["val"], dims).merged(duplicates)


def save_npz(data: SparseTensorData, path: str | Path) -> None:
    """Write what :func:`load_npz` reads."""
    np.savez_compressed(path, idx=data.idx, val=data.val, dims=np.array(data.dims))


def rmse(predicted: Float[np.ndarray, " n"], val: Float[np.ndarray, " n"]) -> float:
    """Root mean square error, in the unit of the values."""
    return float(np.sqrt(np.mean((predicted - val) ** 2)))


def mae(predicted: Float[np.ndarray, " n"], val: Float[np.ndarray, " n"]) -> float:
    """Mean absolute error, in the unit of the values."""
    return float(np.mean(np.abs(predicted - val)))


def _whole_numbers(idx: object) -> np.ndarray:
    out = np.asarray(idx)
    if out.ndim != 2 or out.shape[1] < 2:
        raise ValueError(f"idx has shape {out.shape}; it must be (N, K) with K >= 2 modes")
    if out.dtype.kind not in "iuf":
        raise ValueError(f"idx has type {out.dtype}; whole numbers are expected")
    if out.dtype.kind == "f":
        bad = ~(np.isfinite(out) & (out == np.round(out)))
        if bad.any():
            row, mode = np.argwhere(bad)[0]
            raise ValueError(f"idx[{row}, {mode}] = {out[row, mode]} is not a whole number; bin the coordinates first")
    return out.astype(np.int64)
