"""The nested matrix-tensor model: a noisy matrix that is seen through many noisy copies with unknown gains.

H. Lebeau, M. E. A. Seddik, J. H. de M. Goulart, "Performance Gaps in Multi-view Clustering under the Nested
Matrix-Tensor Model", ICLR 2024, arXiv 2402.10677:

    M = beta_M x y^T + Z / sqrt(n1 + n2)            (n1 x n2)
    T = beta_T M (x) z + W / sqrt(n1 + n2 + n3)     (n1 x n2 x n3)

with unit x, y, z and standard Gaussian Z, W. Two-class multi-view clustering is the case y = labels / sqrt(n): p
features of n points in m views, view k = h_k (mu labels^T / sqrt(n) + Z) + W_k, so that beta_M = |mu| and beta_T = |h|.

A `NestedDraw` holds x, y, z and Z, and draws W whenever it is asked for, from a seed of its own, whole or in slabs, so
that a tensor of any size can pass through memory. `with_strengths` keeps the randomness and changes the signal.
`SecondGrams` gives the Gram matrix of the second unfolding for any strengths at the price of one draw of W.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from tensorbench.decomposition.cp.inputs import as_generator

__all__ = ["NestedDraw", "NestedModel", "Sample", "SecondGrams", "check_dims", "multiview"]

SLAB_BYTES = 2**26  # noise drawn at a time; small enough for a laptop, large enough for fast products


def check_dims(dims: Sequence[int]) -> tuple[int, int, int]:
    """(n1, n2, n3) as positive integers, or a ValueError."""
    sizes = tuple(int(size) for size in dims)
    if len(sizes) != 3 or min(sizes) < 1 or any(int(size) != size for size in dims):
        raise ValueError(f"dims = {tuple(dims)} must be three positive whole numbers (n1, n2, n3)")
    return sizes  # type: ignore[return-value]


class Sample(NamedTuple):
    """One tensor of the model with what is hidden in it."""

    T: Float[np.ndarray, "n1 n2 n3"]
    x: Float[np.ndarray, " n1"]
    y: Float[np.ndarray, " n2"]
    z: Float[np.ndarray, " n3"]
    M: Float[np.ndarray, "n1 n2"]


@dataclass(frozen=True)
class NestedModel:
    """The model at sizes `dims` and strengths beta_M and either beta_T or rho_T = beta_T^2 n_T / sqrt(n1 n2 n3).

    x, y, z are uniform on their spheres; `labels` (+1 or -1, one a column of M) fixes y = labels / sqrt(n2) instead.
    Every `draw` and `sample` continues the stream of `generator` (or of the seed that it stands for).

    ValueError: sizes not three positive integers, strengths negative or not finite, both or neither of beta_T and
    rho_T, labels not +1 / -1 or of a wrong number.
    """

    dims: Sequence[int]
    beta_M: float
    beta_T: float | None = None
    rho_T: float | None = None
    labels: Num[np.ndarray, " n2"] | None = None
    generator: np.random.Generator | int | None = None

    def __post_init__(self) -> None:
        n1, n2, n3 = check_dims(self.dims)
        if (self.beta_T is None) == (self.rho_T is None):
            both = "both are" if self.beta_T is not None else "neither is"
            raise ValueError(f"give one of beta_T and rho_T = beta_T^2 n_T / sqrt(n1 n2 n3); {both} given")
        for name in ("beta_M", "beta_T", "rho_T"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and np.isfinite(value)):
                raise ValueError(f"{name} = {value} must be a number >= 0")
        if self.labels is not None:
            labels = np.asarray(self.labels)
            if labels.shape != (n2,) or not np.isin(labels, (-1, 1)).all():
                raise ValueError(
                    f"labels must be {n2} values of +1 or -1, got shape {labels.shape} with values "
                    f"{np.unique(labels)[:5].tolist()}; use 2 * labels - 1 for labels 0 and 1"
                )
        root = float(np.sqrt(n1 * n2 * n3))
        object.__setattr__(self, "dims", (n1, n2, n3))
        if self.rho_T is not None:
            object.__setattr__(self, "beta_T", float(np.sqrt(self.rho_T * root / (n1 + n2 + n3))))
        else:
            object.__setattr__(self, "rho_T", float((self.beta_T or 0.0) ** 2 * (n1 + n2 + n3) / root))
        object.__setattr__(self, "generator", as_generator(self.generator))

    def draw(self) -> NestedDraw:
        """The hidden vectors and Z, and a seed for W."""
        rng = self.generator
        assert isinstance(rng, np.random.Generator) and self.beta_T is not None
        x, y, z = (_unit(rng.standard_normal(size)) for size in self.dims)
        if self.labels is not None:
            y = np.asarray(self.labels, dtype=float) / np.sqrt(len(self.labels))
        Z = rng.standard_normal(self.dims[:2])
        return NestedDraw(x, y, z, Z, float(self.beta_M), self.beta_T, int(rng.integers(2**63)))

    def sample(self) -> Sample:
        """A whole tensor; `draw().slabs()` gives the same in pieces."""
        return self.draw().sample()


@dataclass(frozen=True)
class NestedDraw:
    """All randomness of one tensor: x, y, z, the matrix noise Z and the seed of the tensor noise W."""

    x: Float[np.ndarray, " n1"]
    y: Float[np.ndarray, " n2"]
    z: Float[np.ndarray, " n3"]
    Z: Float[np.ndarray, "n1 n2"]
    beta_M: float
    beta_T: float
    noise_seed: int

    @property
    def dims(self) -> tuple[int, int, int]:
        return len(self.x), len(self.y), len(self.z)

    @cached_property
    def M(self) -> Float[np.ndarray, "n1 n2"]:
        n1, n2, _ = self.dims
        return self.beta_M * np.outer(self.x, self.y) + self.Z / np.sqrt(n1 + n2)

    def with_strengths(self, beta_M: float | None = None, beta_T: float | None = None) -> NestedDraw:
        """The same randomness under another signal."""
        return replace(
            self,
            beta_M=self.beta_M if beta_M is None else float(beta_M),
            beta_T=self.beta_T if beta_T is None else float(beta_T),
        )

    def noise(self, rows: int | None = None) -> Iterator[tuple[slice, Float[np.ndarray, "rows n2 n3"]]]:
        """W / sqrt(n_T) in slabs of `rows` rows of the first mode; the values do not depend on `rows`."""
        n1, n2, n3 = self.dims
        rows = max(1, SLAB_BYTES // (8 * n2 * n3)) if rows is None else int(rows)
        if rows < 1:
            raise ValueError(f"rows = {rows} must be at least 1")
        rng = np.random.default_rng(self.noise_seed)
        for start in range(0, n1, rows):
            stop = min(start + rows, n1)
            slab = rng.standard_normal((stop - start, n2, n3))
            slab /= np.sqrt(n1 + n2 + n3)
            yield slice(start, stop), slab

    def slabs(self, rows: int | None = None) -> Iterator[Float[np.ndarray, "rows n2 n3"]]:
        """T in slabs of the first mode (for `linalg.streaming_gram`)."""
        for part, slab in self.noise(rows):
            slab += self.beta_T * self.M[part, :, None] * self.z
            yield slab

    def tensor(self, noise: Float[np.ndarray, "n1 n2 n3"] | None = None) -> Float[np.ndarray, "n1 n2 n3"]:
        """T whole; `noise` is W / sqrt(n_T) where it has been drawn already (a sweep over strengths)."""
        if noise is None:
            return next(self.slabs(rows=self.dims[0]))
        return noise + self.beta_T * self.M[:, :, None] * self.z

    def sample(self) -> Sample:
        return Sample(self.tensor(), self.x, self.y, self.z, self.M)


class SecondGrams:
    """T_(2) T_(2)^T of one draw for any beta_M and beta_T, at the price of one pass over W.

    The sum over views of (beta_T z_k M + W_k)^T (beta_T z_k M + W_k) is
    beta_T^2 M^T M + beta_T (M^T B + B^T M) + G with B = sum_k z_k W_k and G = sum_k W_k^T W_k. A phase diagram of
    hundreds of cells then costs little more than one cell; its cells share their noise.
    """

    def __init__(self, draw: NestedDraw) -> None:
        n1, n2, _ = draw.dims
        self.draw = draw
        self._gram = np.zeros((n2, n2))
        self._mean = np.zeros((n1, n2))
        for part, slab in draw.noise():
            flat = slab.transpose(1, 0, 2).reshape(n2, -1)
            self._gram += flat @ flat.T
            self._mean[part] = slab @ draw.z

    def __call__(self, beta_M: float, beta_T: float) -> Float[np.ndarray, "n2 n2"]:
        M = self.draw.with_strengths(beta_M, beta_T).M
        cross = beta_T * (M.T @ self._mean)
        return beta_T**2 * (M.T @ M) + cross + cross.T + self._gram


def multiview(
    p: int,
    n: int,
    m: int,
    mu_norm: float,
    h_norm: float,
    labels: Num[np.ndarray, " n"] | None = None,
    generator: np.random.Generator | int | None = None,
) -> NestedModel:
    """Two classes of n points with p features in m views: the model with y = labels / sqrt(n), beta_M = |mu| and
    beta_T = |h|. `labels` None: drawn fairly."""
    rng = as_generator(generator)
    n = check_dims((p, n, m))[1]
    if labels is None:
        labels = rng.choice([-1.0, 1.0], size=n)
    return NestedModel((p, n, m), beta_M=mu_norm, beta_T=h_norm, labels=np.asarray(labels), generator=rng)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
