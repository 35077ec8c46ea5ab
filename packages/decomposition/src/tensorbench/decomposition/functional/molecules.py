"""Charged particles to test electrostatics with: hard-core clouds, a body-like cluster, a lattice with vacancies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_TRIES = 2000  # random places tried for one particle before giving up


@dataclass(frozen=True)
class Particles:
    """``charges`` (count,) and ``positions`` (count, d)."""

    charges: Float[np.ndarray, " count"]
    positions: Float[np.ndarray, "count d"]

    def __len__(self) -> int:
        return len(self.charges)


def hard_core(
    count: int, distance: float = 0.05, half_width: float = 0.8, seed: int | np.random.Generator = 0, d: int = 3
) -> Particles:
    """Random charges ±1 (as many of either sign, to one) in a cube, no two nearer than ``distance``.

    By random sequential addition. Raises ValueError when no place is left.
    """
    _check(count, distance, half_width)
    rng = np.random.default_rng(seed)
    placed = _grow(count, distance, lambda _: rng.uniform(-half_width, half_width, d), half_width)
    return Particles(_signs(count, rng), placed)


def body(
    count: int, distance: float = 0.05, half_width: float = 0.8, seed: int | np.random.Generator = 0, d: int = 3
) -> Particles:
    """A body-like cluster with partial charges: each new particle sits beside one that is already there.

    Bonds are 1 to 1.5 times ``distance`` long, no two particles nearer than ``distance``; charges are uniform on
    [-1, 1] with their mean removed, so that the body is neutral.
    """
    _check(count, distance, half_width)
    rng = np.random.default_rng(seed)

    def beside(placed: np.ndarray) -> np.ndarray:
        if not len(placed):
            return np.zeros(d)
        way = rng.standard_normal(d)
        return placed[rng.integers(len(placed))] + rng.uniform(1, 1.5) * distance * way / np.linalg.norm(way)

    positions = _grow(count, distance, beside, half_width)
    charges = rng.uniform(-1, 1, count)
    return Particles(charges - charges.mean(), positions)


def lattice(
    shape: tuple[int, ...] = (8, 8, 4),
    spacing: float = 0.15,
    vacancies: float = 0.1,
    seed: int | np.random.Generator = 0,
) -> Particles:
    """A finite lattice of alternating charges ±1 about the origin; sites are vacant with probability ``vacancies``."""
    if any(size < 1 for size in shape) or spacing <= 0 or not 0 <= vacancies < 1:
        raise ValueError(
            f"lattice {shape}, spacing {spacing}, vacancies {vacancies}: "
            "use sizes >= 1, spacing > 0 and a share in [0, 1) of vacancies"
        )
    rng = np.random.default_rng(seed)
    sites = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), axis=-1).reshape(-1, len(shape))
    keep = rng.random(len(sites)) >= vacancies
    keep[0] |= not keep.any()
    centre = (np.array(shape) - 1) / 2
    return Particles(1.0 - 2.0 * (sites[keep].sum(axis=1) % 2), spacing * (sites[keep] - centre))


def _grow(count: int, distance: float, propose, half_width: float) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Places proposed one by one, each kept if it lies in the cube and far enough from all before."""
    placed: list[np.ndarray] = []
    for i in range(count):
        so_far = np.array(placed)
        for _ in range(_TRIES):
            place = propose(so_far)
            fits = np.abs(place).max() <= half_width
            if fits and (i == 0 or np.linalg.norm(so_far - place, axis=1).min() >= distance):
                placed.append(place)
                break
        else:
            raise ValueError(
                f"no place found for particle {i + 1} of {count} at least {distance} from the others within "
                f"±{half_width}; lower the distance or the count"
            )
    return np.array(placed)


def _signs(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.where(np.arange(count) % 2, -1.0, 1.0))


def _check(count: int, distance: float, half_width: float) -> None:
    if count < 1 or distance < 0 or half_width <= 0:
        raise ValueError(f"count {count}, distance {distance}, half_width {half_width} must be >= 1, >= 0 and > 0")
