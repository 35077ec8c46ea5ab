"""Tensors that several experiments decompose: measured arrays and photographs that come with libraries, and generated
ones.

Every loader but :func:`mushroom` returns one ``float64`` array; :func:`mushroom` returns a sparse
:class:`tensorbench.decomposition.linalg.COO`. The photographs are scaled to [0, 1]; ``shrink=k`` averages k × k
blocks of pixels (rows and columns that do not fill a block are dropped). Measured arrays are as the library has them,
missing cells (``nan``) included.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tensorbench.core.data import File, dataset
from tensorbench.core.errors import unknown

if TYPE_CHECKING:
    from tensorbench.decomposition.linalg import COO


def _photograph(name: str, shrink: int, gray: bool = False) -> np.ndarray:
    """The scikit-image photograph ``name`` in [0, 1], ``shrink`` × ``shrink`` blocks averaged."""
    from skimage import data

    image = np.asarray(getattr(data, name)(), dtype=np.float64) / 255.0
    if gray and image.ndim == 3:
        image = image @ np.array([0.2125, 0.7154, 0.0721])  # luminance as in ITU-R BT.709
    smallest = min(image.shape[:2])
    if isinstance(shrink, bool) or not isinstance(shrink, int) or not 1 <= shrink <= smallest:
        raise ValueError(
            f"shrink {shrink!r} is not a whole number of pixels from 1 to {smallest} ({name}: {image.shape})"
        )
    rows, columns = (size // shrink for size in image.shape[:2])
    blocks = image[: rows * shrink, : columns * shrink].reshape(rows, shrink, columns, shrink, *image.shape[2:])
    return np.ascontiguousarray(blocks.mean(axis=(1, 3)))


def _sizes(name: str, sizes: list[int] | tuple[int, ...]) -> tuple[int, ...]:
    """Mode sizes as a tuple of at least two positive integers, or an error that says which value is wrong."""
    out = tuple(sizes)
    if len(out) < 2 or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in out):
        raise ValueError(f"{name} {list(out)} must list at least two positive whole numbers, such as [20, 30, 40]")
    return out


@dataset(
    title="Indian Pines, 145 × 145 × 200 hyperspectral scene",
    source="Baumgardner, Biehl, Landgrebe (2015), doi:10.4231/R7RX991C, as in tensorly",
    licence="CC-BY-3.0",
    library="tensorly",
)
def indian_pines(*, seed: int) -> np.ndarray:
    """Rows × columns × spectral bands of an AVIRIS scene, raw sensor counts (955 to 9604)."""
    from tensorly.datasets import load_indian_pines

    return np.asarray(load_indian_pines().tensor, dtype=np.float64)


_ABORTED = 27  # this measurement of Kinetic broke off: 1561 of its 7200 cells are missing


@dataset(
    title="Kinetic fluorescence, 64 × 12 × 10 × 60",
    source="Nikolajsen, Booksh, Hansen, Bro (2003), as in tensorly",
    licence="free for public use, see the source",
    library="tensorly",
)
def kinetic(*, seed: int, missing: str = "fill") -> np.ndarray:
    """Measurement × emission × excitation × time. 1,754 cells are missing; tensorly has 0 there and a mask beside it.

    ``missing="nan"``: all 64 measurements, ``nan`` in these cells. ``"fill"``, for methods that need all cells: the
    63 measurements without the one that broke off, whose other 193 missing cells are interpolated along time.
    """
    from tensorly.datasets import load_kinetic

    if missing not in ("fill", "nan"):
        raise ValueError(unknown("way with missing cells", missing, ("fill", "nan")))
    loaded = load_kinetic()
    array = np.array(loaded.tensor, dtype=np.float64)
    array[np.asarray(loaded.missing_values_position, dtype=bool)] = np.nan
    if missing == "nan":
        return array
    array = np.ascontiguousarray(np.delete(array, _ABORTED, axis=0))
    times = np.arange(array.shape[-1])
    for fibre in array.reshape(-1, len(times)):  # a view: what is written stays
        absent = np.isnan(fibre)
        if absent.any():
            fibre[absent] = np.interp(times[absent], times[~absent], fibre[~absent])
    return array


@dataset(
    title="Responses to IL-2, 13 × 4 × 12 × 8",
    source="Orcutt-Jahns et al. (2021), as in tensorly",
    licence="MIT",
    library="tensorly",
)
def il2_response(*, seed: int) -> np.ndarray:
    """Ligand × time × dose × cell type; 3.8 % of the cells are missing (``nan``)."""
    from tensorly.datasets import load_IL2data

    return np.asarray(load_IL2data().tensor, dtype=np.float64)


@dataset(
    title="Astronaut, 512 × 512 × 3 photograph",
    source="NASA, as in scikit-image",
    licence="public domain",
    library="scikit-image",
)
def astronaut(*, seed: int, shrink: int = 1, gray: bool = False) -> np.ndarray:
    """Rows × columns × colours in [0, 1]; ``gray=True`` leaves the luminance alone, rows × columns."""
    return _photograph("astronaut", shrink, gray)


@dataset(
    title="Camera, 512 × 512 grey photograph",
    source="Lav Varshney, as in scikit-image",
    licence="CC0",
    library="scikit-image",
)
def camera(*, seed: int, shrink: int = 1) -> np.ndarray:
    """Rows × columns in [0, 1]."""
    return _photograph("camera", shrink)


@dataset(
    title="Chelsea the cat, 300 × 451 × 3 photograph",
    source="Stefan van der Walt, as in scikit-image",
    licence="CC0",
    library="scikit-image",
)
def chelsea(*, seed: int, shrink: int = 1, gray: bool = False) -> np.ndarray:
    """Rows × columns × colours in [0, 1]; ``gray=True`` leaves the luminance alone, rows × columns."""
    return _photograph("chelsea", shrink, gray)


@dataset(
    title="Retina, 1411 × 1411 × 3 photograph",
    source="Häggström (2014), doi:10.15347/wjm/2014.008, as in scikit-image",
    licence="CC0",
    library="scikit-image",
)
def retina(*, seed: int, shrink: int = 1) -> np.ndarray:
    """Rows × columns × colours in [0, 1]; ``shrink=2`` gives 705 × 705 × 3."""
    return _photograph("retina", shrink)


@dataset(
    title="Hilbert-like tensor 1/(i + j + k)",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def hilbert_tensor(*, seed: int, sizes: list[int] | tuple[int, ...] = (20, 30, 40)) -> np.ndarray:
    """Entry (i, j, k, ...) is 1 / (i + j + k + ...), indices counted from one; the same for every seed."""
    axes = np.ogrid[tuple(slice(1, size + 1) for size in _sizes("sizes", sizes))]
    return 1.0 / sum(np.asarray(axis, dtype=np.float64) for axis in axes)


@dataset(title="Random Tucker tensor", source="generated here", licence="Apache-2.0", generated=True, cache=False)
def planted_tucker(
    *,
    seed: int,
    sizes: list[int] | tuple[int, ...] = (100, 100, 100),
    ranks: list[int] | tuple[int, ...] = (16, 32, 64),
    noise: float = 0.0,
) -> np.ndarray:
    """A core and factors with entries uniform on [0, 1), multiplied out; ``noise``: Gaussian noise norm over tensor
    norm.

    The distribution is that of ``tensorly.random.random_tucker``, which the paper on core shapes uses with these sizes.
    """
    shape, core_shape = _sizes("sizes", sizes), _sizes("ranks", ranks)
    if len(shape) != len(core_shape) or any(rank > size for rank, size in zip(core_shape, shape, strict=True)):
        raise ValueError(f"ranks {list(core_shape)} need one value per mode, none above its size in {list(shape)}")
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise {noise} must be a finite number >= 0: the norm of the noise over that of the tensor")
    rng = np.random.default_rng(seed)
    tensor = rng.random(core_shape)
    for mode, (size, rank) in enumerate(zip(shape, core_shape, strict=True)):
        tensor = np.moveaxis(np.tensordot(rng.random((size, rank)), tensor, axes=(1, mode)), 0, mode)
    if noise > 0:
        grain = rng.standard_normal(shape)
        tensor = tensor + noise * np.linalg.norm(tensor) / np.linalg.norm(grain) * grain
    return np.ascontiguousarray(tensor)


@dataset(title="Uniform random tensor", source="generated here", licence="Apache-2.0", generated=True, cache=False)
def uniform_tensor(*, seed: int, sizes: list[int] | tuple[int, ...] = (100, 100, 100)) -> np.ndarray:
    """Independent entries, uniform on [0, 1)."""
    return np.random.default_rng(seed).random(_sizes("sizes", sizes))


@dataset(
    title="Mushroom, sparse tensor with 22 modes",
    source="UCI Mushroom, as in fahrbach/approximately-optimal-core-shapes",
    licence="MIT",
    files=[
        File(
            path="src/data/mushroom/mushroom.csv",
            sha256="67297c88650d2c7651235e09acf6f0ce66e4ca49923fc3de245b061a4c10e5c5",
            bytes=376742,
            repository="fahrbach/approximately-optimal-core-shapes",
            commit="dff9636c787d9ea8ab104601ac5b8a31f2dbb027",
            licence="MIT",
        )
    ],
)
def mushroom(files: list[Path], *, seed: int) -> COO:
    """8124 mushrooms as the entries of a 22-mode tensor, one mode per attribute: -1 is edible, +1 poisonous.

    The file codes each attribute from one; its first column is the class, 1 (edible) or 2 (poisonous).
    """
    from tensorbench.decomposition.linalg import COO

    table = np.loadtxt(files[0], delimiter=",", dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != 23 or table.min() < 1:
        raise ValueError(f"{files[0].name} must hold 23 columns of codes counted from 1, not shape {table.shape}")
    attributes = table[:, 1:] - 1
    sizes = tuple(int(size) for size in attributes.max(axis=0) + 1)
    return COO(attributes.T, 2.0 * table[:, 0] - 3.0, sizes)
