"""Whole tensors, measured or of your own, with a part of the cells held out: what a format is chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tensorbench.core.data import dataset
from tensorbench.core.errors import unknown
from tensorbench.decomposition.datasets import tensors

VALIDATION = TEST = 0.1  # of the known cells


@dataclass(frozen=True)
class HeldOut:
    """A tensor and three disjoint sets of its known cells. Cells that nobody knows are NaN and in none of them."""

    tensor: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """The cells that may be used once every choice is made: training and validation."""
        return self.train | self.valid

    def rmse(self, predicted: np.ndarray, cells: np.ndarray) -> float:
        """Root mean square error over ``cells`` in units of their standard deviation: 1 is what their mean scores."""
        truth = self.tensor[cells]
        return float(np.sqrt(np.mean((predicted[cells] - truth) ** 2)) / truth.std())


def split(tensor: np.ndarray, seed: int) -> HeldOut:
    """A tenth of the known cells for validation, a tenth for the test; every slice keeps a training cell.

    Raises:
        ValueError: fewer than two modes, infinities, a slice without a known cell, or hardly any cells.
    """
    from tensorbench.decomposition.decompose import hold_out

    tensor = np.asarray(tensor, dtype=np.float64)
    known = ~np.isnan(tensor)
    if tensor.ndim < 2 or known.sum() < 50:
        raise ValueError(f"shape {tensor.shape} with {int(known.sum())} known cells; two modes and 50 cells are needed")
    if np.isinf(tensor).any():
        raise ValueError(f"{int(np.isinf(tensor).sum())} cells are infinite; write NaN for cells that are not known")
    for mode in range(tensor.ndim):
        axes = tuple(axis for axis in range(tensor.ndim) if axis != mode)
        if not known.any(axis=axes).all():
            blank = int(np.argmin(known.any(axis=axes)))
            raise ValueError(f"slice {blank} of mode {mode} has no known cell; drop it: nothing can be said about it")
    rng = np.random.default_rng(seed)
    test = hold_out(known, TEST, rng)
    valid = hold_out(known & ~test, VALIDATION / (1 - TEST), rng)
    for name, cells in (("validation", valid), ("test", test)):
        if np.ptp(tensor[cells]) == 0:
            raise ValueError(
                f"the {name} cells all hold {tensor[cells][0]:g}: there is no variation to predict in them"
            )
    return HeldOut(tensor, known & ~test & ~valid, valid, test)


@dataset(
    title="Measured tensors with held-out cells",
    source="tensorly and scikit-image",
    licence="as the tensors'",
    library="tensorly",
)
def measured_tensor(*, seed: int, tensor: str, thin: Sequence[int] = (), shrink: int = 1) -> HeldOut:
    """``indian_pines``, ``kinetic``, ``il2_response`` or ``astronaut``; every ``thin[k]``-th slice of mode k.

    ``shrink`` averages blocks of the photograph's pixels. The seed decides which cells are held out.
    """
    loaders = {name: getattr(tensors, name) for name in ("indian_pines", "kinetic", "il2_response", "astronaut")}
    if tensor not in loaders:
        raise ValueError(unknown("tensor", tensor, loaders))
    options = {"astronaut": {"shrink": shrink}, "kinetic": {"missing": "nan"}}
    array = loaders[tensor](seed=0, **options.get(tensor, {}))
    if thin and (len(thin) != array.ndim or any(isinstance(k, bool) or int(k) != k or k < 1 for k in thin)):
        raise ValueError(f"thin {list(thin)} must be one whole number >= 1 for each of the {array.ndim} modes")
    return split(array[tuple(slice(None, None, k) for k in thin)], seed)


@dataset(
    title="An array of your own, with held-out cells",
    source="a .npy or .npz file",
    licence="yours",
    library="numpy",
    reads=["path"],
)
def own_array(*, seed: int, path: str, name: str = "") -> HeldOut:
    """The array in ``path`` (``name`` of it in a .npz with several); NaN where a cell is not known."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"path {path!r}: no such file (from {Path.cwd()})")
    with open(file, "rb") as opened:
        try:
            content = np.load(opened, allow_pickle=False)
        except (ValueError, EOFError):
            raise ValueError(f"{path} is no .npy or .npz of numbers; write one with np.save(path, array)") from None
        if isinstance(content, np.ndarray):
            array = content
        else:
            if not name and len(content.files) != 1:
                raise ValueError(f"{path} holds {', '.join(content.files)}; say which with `name:`")
            wanted = name or content.files[0]
            if wanted not in content.files:
                raise ValueError(unknown("array", wanted, content.files))
            try:
                array = content[wanted]
            except ValueError:
                raise ValueError(f"{wanted} in {path} holds objects; real numbers are needed") from None
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(f"{path} holds {array.dtype}; real numbers are needed")
    return split(array, seed)
