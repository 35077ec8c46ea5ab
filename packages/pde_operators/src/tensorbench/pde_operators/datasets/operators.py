"""Maps between functions, to be learnt from samples: what goes in, what comes out, on the grids of several resolutions.

Fixed splits: the first samples train, the last ones test, and those between them validate. Mirrored sets come from the
repository of the neuraloperator library; how its Darcy files were made is not documented (solving -div(a ∇u) = 1 with
permeabilities 12 and 3 misses by about 30 %), so that they are a black box here, beside the package's own Darcy set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import File, dataset, load

REPO = {
    "repository": "neuraloperator/neuraloperator",
    "commit": "93d3f0633e048c915004cd782cb339acf06e1157",
    "licence": "MIT",
}
FOLDER = "neuralop/data/datasets/data"
OWN: dict[str, Any] = {"source": "generated here", "licence": "Apache-2.0", "generated": True}


@dataclass(frozen=True, eq=False)
class OperatorData:
    """Pairs of functions on grids, float32, (samples, channels, \\*grid)."""

    train_x: Float[np.ndarray, "train cin *grid"]
    train_y: Float[np.ndarray, "train cout *grid"]
    valid_x: Float[np.ndarray, "valid cin *grid"]
    valid_y: Float[np.ndarray, "valid cout *grid"]
    test: dict[int, tuple[np.ndarray, np.ndarray]]  # by points a direction; the training resolution is among them
    length: float = 1.0  # of the domain, in each direction
    periodic: bool = False

    @property
    def resolution(self) -> int:
        """Points a direction of the training grid."""
        return int(self.train_x.shape[-1])

    @property
    def dims(self) -> int:
        return self.train_x.ndim - 2


def _split(
    x: np.ndarray,
    y: np.ndarray,
    train: int,
    valid: int,
    test: dict[int, tuple[np.ndarray, np.ndarray]],
    **about: object,
) -> OperatorData:
    """Training from the front and validation from the end of (samples, \\*grid) arrays."""
    if train < 1 or valid < 1 or train + valid > len(x):
        raise ValueError(f"train {train} and valid {valid} must be at least 1 and together at most {len(x)}")

    def channels(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values, dtype=np.float32)[:, None]

    return OperatorData(
        channels(x[:train]),
        channels(y[:train]),
        channels(x[len(x) - valid :]),
        channels(y[len(y) - valid :]),
        {n: (channels(a), channels(b)) for n, (a, b) in test.items()},
        **about,  # type: ignore[arg-type]
    )


def _tensors(path: Path) -> dict[str, np.ndarray]:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value.numpy() for name, value in content.items() if torch.is_tensor(value)}


def _file(name: str, bytes: int, sha256: str) -> File:
    return File(path=f"{FOLDER}/{name}", bytes=bytes, sha256=sha256, **REPO)


@dataset(
    title="Darcy flow on 16² points, tested at 16² and 32²",
    source="distributed with the neuraloperator library",
    licence="MIT",
    files=[
        _file("darcy_train_16.pt", 1280999, "0be662acdb1dab7dfd1a1da0b140e97f75cc94f98a14edcf768abe6968b3b418"),
        _file("darcy_test_16.pt", 64999, "d2b19af9d4a6ae04ba2de54b8ecccc8b89766472faf6ce7f506c0b2a60f69a4c"),
        _file("darcy_test_32.pt", 256999, "bcbd10622373e94df84a17fcdb72ac4317d76e024c2499d21fd1fd34d0742cfd"),
    ],
)
def darcy_16(files: list[Path], *, seed: int, train: int = 900, valid: int = 100) -> OperatorData:
    """Which of two permeabilities a cell has (0 or 1), to the pressure; 1000 samples, 50 to test each resolution."""
    data, *tests = (_tensors(file) for file in files)
    return _split(data["x"], data["y"], train, valid, {t["x"].shape[-1]: (t["x"], t["y"]) for t in tests})


@dataset(
    title="Burgers' equation on 16 points, viscosity 0.01",
    source="distributed with the neuraloperator library",
    licence="MIT",
    files=[
        _file("burgers_train_16.pt", 2766547, "d12335adc0d96357a893dc39d72957fa89fda852b00902d94da95aa06af23fa0"),
        _file("burgers_test_16.pt", 2766540, "70bb1591e31b254e74ac6097a5520de299da38115cb3f814e8d0f6f19057d201"),
    ],
)
def burgers_16(files: list[Path], *, seed: int, train: int = 700, valid: int = 100) -> OperatorData:
    """The initial state to the state at the last of 17 times; 800 samples, and 400 to test."""
    data, test = (_tensors(file) for file in files)
    return _split(
        data["x"], data["y"][:, -1], train, valid, {16: (test["x"], test["y"][:, -1])}, periodic=True
    )  # fmt: skip


def _coarse(values: np.ndarray, resolution: int) -> np.ndarray:
    """Every so many-th point of a periodic grid in each of the axes behind the first."""
    step = values.shape[-1] // resolution
    return values[(slice(None), *[slice(None, None, step)] * (values.ndim - 1))]


def _strided(
    x: np.ndarray, y: np.ndarray, train: int, valid: int, test: int, sizes: Sequence[int], **about: object
) -> OperatorData:
    """Periodic samples, the last ``test`` of them on grids of all ``sizes``, the others on the first of these."""
    tests = {n: (_coarse(x[-test:], n), _coarse(y[-test:], n)) for n in sizes}
    x, y = _coarse(x[:-test], sizes[0]), _coarse(y[:-test], sizes[0])
    return _split(x, y, train, valid, tests, periodic=True, **about)


def _divides(resolution: int, finest: int) -> None:
    if resolution < 1 or finest % resolution:
        raise ValueError(f"resolution {resolution} does not divide the {finest} points of the finest grid")


@dataset(title="Navier-Stokes on the torus: from the forcing to the vorticity", **OWN)
def navier_stokes(
    *,
    seed: int,
    resolution: int = 64,
    time: float = 2.0,
    train: int = 200,
    valid: int = 16,
    test: int = 24,
    finest: int = 64,
    viscosity: float = 0.002,
    forcing_std: float = 0.5,
) -> OperatorData:
    """Own solver at Reynolds number 500; trained on every so many-th point, tested there and on the finest grid.

    ``time`` 2 and 5 come from the same kept samples; another makes its own.
    """
    _divides(resolution, finest)
    total = train + valid + test
    options = {"samples": total, "resolution": finest, "viscosity": viscosity, "forcing_std": forcing_std}
    if time not in (2.0, 5.0):
        options |= {"first": time / 2, "last": time}
    made = load("navier_stokes_samples", seed=seed, **options)
    x, y = made["forcing"], made["vorticity"][:, int(np.argmin(np.abs(made["times"] - time)))]
    return _strided(x, y, train, valid, test, sorted({resolution, finest}), length=2 * np.pi)


@dataset(title="Darcy flow through a random medium: from the permeability to the pressure", **OWN)
def darcy_fv(
    *, seed: int, resolution: int = 16, train: int = 480, valid: int = 60, test: int = 60, finest: int = 64
) -> OperatorData:
    """Own finite volumes; permeabilities 12 and 3 on the coarse grid's centres, tested on it and on all finer ones."""
    made = load("darcy_fv_samples", seed=seed, samples=train + valid + test, resolution=finest, coarsest=resolution)
    sizes = sorted(int(key[2:]) for key in made if key.startswith("x_"))
    tests = {n: (made[f"x_{n}"][-test:], made[f"y_{n}"][-test:]) for n in sizes}
    return _split(made[f"x_{resolution}"][:-test], made[f"y_{resolution}"][:-test], train, valid, tests)


@dataset(title="Burgers' equation: from the initial state to the state at time 1", **OWN)
def burgers_own(
    *,
    seed: int,
    resolution: int = 32,
    train: int = 600,
    valid: int = 100,
    test: int = 100,
    finest: int = 128,
    viscosity: float = 0.01,
) -> OperatorData:
    """Own solver; trained on every so many-th point, tested on that grid, on the finest, and on those between."""
    _divides(resolution, finest)
    total = train + valid + test
    made = load("burgers_samples", seed=seed, samples=total, resolution=finest, viscosity=viscosity)
    x, y = made["x"], made["y"]
    sizes = [resolution * 2**k for k in range(finest.bit_length()) if finest % (resolution * 2**k) == 0]
    return _strided(x, y, train, valid, test, sizes)
