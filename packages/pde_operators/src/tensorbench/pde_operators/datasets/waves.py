"""Runs of the wave equation by finite elements: random pulses in media with an inclusion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset


@dataclass(frozen=True)
class WaveData:
    """Snapshots u (runs, times, x, y) and speeds c (runs, x, y) at the nodes of the unit square, sides held at 0.

    ``beyond`` are runs outside what was trained on: two narrow pulses. ``interval`` is the time between snapshots,
    ``spacing`` the distance of nodes.
    """

    train_u: Float[np.ndarray, "train times n n"]
    train_c: Float[np.ndarray, "train n n"]
    valid_u: Float[np.ndarray, "valid times n n"]
    valid_c: Float[np.ndarray, "valid n n"]
    test_u: Float[np.ndarray, "test times n n"]
    test_c: Float[np.ndarray, "test n n"]
    beyond_u: Float[np.ndarray, "beyond times n n"]
    beyond_c: Float[np.ndarray, "beyond n n"]
    interval: float
    spacing: float


@dataset(
    title="Waves in a square with an inclusion, finite elements",
    source="generated here: scikit-fem, bilinear quadrilaterals, Newmark",
    licence="Apache-2.0",
    generated=True,
    cache=True,
)
def fe_waves(
    *,
    seed: int,
    n: int = 32,
    train: int = 60,
    valid: int = 10,
    test: int = 20,
    beyond: int = 20,
    snapshots: int = 42,
    dt: float = 0.01,
    every: int = 5,
    obstacles: bool = False,
) -> WaveData:
    """u_tt = div(c² ∇u) from rest on n × n nodes, u = 0 on the sides. A Gaussian pulse of standard deviation 0.05 to
    0.15 somewhere in the middle; c = 1 but in a disc or a slab, where it is between 0.5 and 1.5. ``beyond``: two
    pulses of standard deviation 0.03. Newmark steps of ``dt``, a snapshot every ``every`` of them.
    With ``obstacles`` a disc in each medium stands still (u = 0); the stored speed is 0 there.
    """
    from tensorbench.pde_operators.solvers.wave2d import assemble, newmark, on_grid, unit_square

    if n < 8:
        raise ValueError(f"n {n} is too coarse for these pulses; use 8 nodes a side or more")
    counts = {"train": train, "valid": valid, "test": test, "beyond": beyond}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} {count} must be at least 1 run")
    if snapshots < 3:
        raise ValueError(f"snapshots {snapshots} must be at least 3: two to start from, one to predict")
    mesh = unit_square(n - 1)
    parts: dict[str, np.ndarray] = {}
    for number, (name, count) in enumerate(counts.items()):
        fields = np.empty((count, snapshots, n, n), dtype=np.float32)
        speeds = np.empty((count, n, n), dtype=np.float32)
        for k in range(count):
            # A generator for each run, so that more runs leave the others as they are.
            rng = np.random.default_rng([seed, number, k])
            medium = _Medium(rng)
            obstacle = _disc(rng) if obstacles else None
            wave = assemble(mesh, speed=medium, obstacle=obstacle)
            widths = [0.03, 0.03] if name == "beyond" else [rng.uniform(0.05, 0.15)]
            u0 = np.sum([_pulse(rng, wave.points, width) for width in widths], axis=0)
            run = newmark(wave, u0 * wave.free, dt=dt, steps=(snapshots - 1) * every, every=every)
            fields[k] = on_grid(wave, run.u)
            speed = medium(wave.points)
            speeds[k] = on_grid(wave, speed if obstacle is None else speed * ~obstacle(wave.points))
        parts |= {f"{name}_u": fields, f"{name}_c": speeds}
    return WaveData(**parts, interval=dt * every, spacing=1 / (n - 1))


class _Medium:
    """c = 1 but in a disc or in a slab across the square."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.speed = rng.uniform(0.5, 1.5)
        self.disc = rng.random() < 0.5
        self.centre = rng.uniform(0.25, 0.75, size=2)
        self.size = rng.uniform(0.1, 0.25)
        self.axis = int(rng.integers(2))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        if self.disc:
            inside = (points[0] - self.centre[0]) ** 2 + (points[1] - self.centre[1]) ** 2 < self.size**2
        else:
            inside = abs(points[self.axis] - self.centre[self.axis]) < self.size / 2
        return np.where(inside, self.speed, 1.0)


def _disc(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Where a disc of radius 0.05 to 0.12 is."""
    x, y = rng.uniform(0.2, 0.8, size=2)
    radius = rng.uniform(0.05, 0.12)
    return lambda points: (points[0] - x) ** 2 + (points[1] - y) ** 2 < radius**2


@dataclass(frozen=True)
class StandingWave:
    """cos(√2 π c t) sin(πx) sin(πy), an exact solution on the unit square; ``time`` is when to compare."""

    speed: float
    time: float

    def at(self, points: Float[np.ndarray, "2 *grid"], t: float) -> Float[np.ndarray, "*grid"]:
        """The field at points and a time."""
        shape = np.sin(np.pi * points[0]) * np.sin(np.pi * points[1])
        return np.cos(np.sqrt(2) * np.pi * self.speed * t) * shape

    def largest(self, points: Float[np.ndarray, "2 *grid"]) -> Float[np.ndarray, "*grid"]:
        """The field when it is largest, to measure errors by."""
        return self.at(points, 0.0)


@dataset(title="A standing wave", source="exact solution", licence="Apache-2.0", generated=True)
def standing_wave(*, seed: int, time: float = 0.5) -> StandingWave:
    """cos(√2 π t) sin(πx) sin(πy) on the unit square with c = 1, and the time at which to compare."""
    return StandingWave(1.0, time)


@dataset(title="White noise on a grid", source="generated here", licence="Apache-2.0", generated=True)
def white_fields(*, seed: int, batch: int = 4, channels: int = 16, n: int = 32) -> np.ndarray:
    """Independent normal values (batch, channels, n, n): input for layers whose cost is counted."""
    values = np.random.default_rng(seed).standard_normal((batch, channels, n, n))
    return values.astype(np.float32)


def _pulse(rng: np.random.Generator, points: np.ndarray, width: float) -> np.ndarray:
    from tensorbench.pde_operators.solvers.wave2d import gaussian

    x, y = rng.uniform(0.25, 0.75, size=2)
    return gaussian(points, (float(x), float(y)), float(width))
