"""Pictures and scenes of which a part is seen: the observed cells, those held out of them, and the truth.

A loader returns one :class:`Masked` per case of a family (another share of observed cells, another picture), so that a
run can sweep over them. Cells are observed independently of each other, colours and bands included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorbench.core.data import dataset
from tensorbench.core.errors import unknown
from tensorbench.decomposition.datasets.tensors import astronaut, chelsea, indian_pines, kinetic

HELD_OUT = 0.05  # of the observed cells, for choosing ranks and for early stopping


@dataclass(frozen=True)
class Masked:
    """A tensor in [0, 1] of which ``mask`` is observed.

    ``tensor`` holds what is observed (noisy where the case has noise; 0 in the cells that are not), ``held`` a random
    twentieth of the observed cells for choosing ranks and early stopping. ``truth`` is for scoring alone.
    """

    name: str
    tensor: np.ndarray
    mask: np.ndarray
    held: np.ndarray
    truth: np.ndarray
    noise: float = 0.0

    @property
    def train(self) -> np.ndarray:
        """The observed cells that are not held out."""
        return self.mask & ~self.held

    @property
    def percent(self) -> float:
        """The nominal share of observed cells in percent, for axes and histories."""
        return round(100 * float(self.mask.mean()))


def mask_tensor(name: str, truth: np.ndarray, observed: float, noise: float, rng: np.random.Generator) -> Masked:
    """Observe a random share of the cells, at least one in each slice of each mode; hold a twentieth of them out."""
    if not 0.0 < observed <= 1.0:
        raise ValueError(f"observed {observed} is a share of the cells and must be in (0, 1]")
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise {noise} is a standard deviation and must be a finite number >= 0")
    order = rng.permutation(truth.size)
    count = max(2, round(observed * truth.size))
    mask, held = (np.zeros(truth.size, dtype=bool) for _ in range(2))
    mask[order[:count]] = True
    held[order[: max(1, round(HELD_OUT * count))]] = True
    mask, held = mask.reshape(truth.shape), held.reshape(truth.shape)
    for mode in range(truth.ndim):  # a slice that nothing is known about cannot be completed by any method
        axes = tuple(axis for axis in range(truth.ndim) if axis != mode)
        for i in np.flatnonzero(~(mask & ~held).any(axis=axes)):
            cell = [int(rng.integers(size)) for size in truth.shape]
            cell[mode] = int(i)
            mask[tuple(cell)], held[tuple(cell)] = True, False
    seen = truth + noise * rng.standard_normal(truth.shape)
    return Masked(name, np.where(mask, seen, 0.0), mask, held, truth, noise)


def _square(image: np.ndarray, size: int) -> np.ndarray:
    """The centred square, averaged to size × size."""
    from skimage.transform import resize

    side = min(image.shape[:2])
    if isinstance(size, bool) or not isinstance(size, int) or not 4 <= size <= side:
        raise ValueError(f"size {size!r} must be a whole number of pixels from 4 to {side}")
    top, left = ((extent - side) // 2 for extent in image.shape[:2])
    return resize(image[top : top + side, left : left + side], (size, size), order=1, anti_aliasing=True)


def _pines(size: int, bands: int) -> np.ndarray:
    """The upper left corner of Indian Pines and evenly spread bands, scaled to [0, 1]."""
    scene = indian_pines(seed=0)
    if not (4 <= size <= min(scene.shape[:2]) and 1 <= bands <= scene.shape[2]):
        raise ValueError(f"size {size} and bands {bands} must be at most {scene.shape[0]} and {scene.shape[2]}")
    crop = scene[:size, :size, np.linspace(0, scene.shape[2] - 1, bands).round().astype(int)]
    return (crop - crop.min()) / np.ptp(crop)


def scene(picture: str, size: int, bands: int = 30) -> np.ndarray:
    """``astronaut`` or ``chelsea`` as size × size × 3, or ``indian_pines`` as size × size × bands; in [0, 1]."""
    sources = {"astronaut": astronaut, "chelsea": chelsea}
    if picture == "indian_pines":
        return _pines(size, bands)
    if picture not in sources:
        raise ValueError(unknown("picture", picture, [*sources, "indian_pines"]))
    return _square(sources[picture](seed=0), size)


@dataset(
    title="Pictures and scenes with missing cells",
    source="scikit-image and tensorly",
    licence="public domain, CC0 and CC-BY-3.0 (Indian Pines)",
    library="scikit-image",
)
def masked_scenes(*, seed: int, cases: Sequence[dict[str, Any]]) -> tuple[Masked, ...]:
    """One :class:`Masked` per case.

    A case names a ``picture`` (astronaut, chelsea, indian_pines), its ``size`` in pixels, the share ``observed``, and
    optionally ``bands`` (Indian Pines) and the standard deviation ``noise`` of Gaussian noise on what is observed.
    The seed decides the cells and the noise.
    """
    found = []
    for k, case in enumerate(cases):
        given = {"size": 96, "bands": 30, "observed": 0.1, "noise": 0.0} | dict(case)
        extra = set(given) - {"picture", "size", "bands", "observed", "noise"}
        if extra or "picture" not in given:
            raise ValueError(f"case {k} is {dict(case)}: it takes picture, size, observed, bands and noise")
        truth = scene(given["picture"], given["size"], given["bands"])
        rng = np.random.default_rng([seed, k])
        found.append(mask_tensor(given["picture"], truth, given["observed"], given["noise"], rng))
    return tuple(found)


@dataset(
    title="Whole tensors to compress",
    source="scikit-image and tensorly",
    licence="public domain, CC0, and as kinetic and indian_pines",
    library="scikit-image",
)
def tensor_to_compress(*, seed: int, source: str, size: int = 96) -> np.ndarray:
    """``kinetic`` (every fourth sample and second time: 16 × 12 × 10 × 30), or a :func:`scene`; no seed changes it."""
    return kinetic(seed=0)[::4, :, :, ::2].copy() if source == "kinetic" else scene(source, size)
