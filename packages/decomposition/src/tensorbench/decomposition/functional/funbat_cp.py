"""Functional Bayesian CP decomposition: ``funbat.FunBaT`` with the core fixed to the superdiagonal of ones.

    y_n = Σ_r u_1r(i_n1) ... u_Kr(i_nK) + ε_n.

Fang et al. 2024 (arXiv 2311.04829), FunBaT-CP. Products of factors are Hadamard instead of Kronecker products, so that
the cost of an entry is R^2 K and not R^(2K).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorbench.decomposition.functional import moments
from tensorbench.decomposition.functional.funbat import Core, FunBaT


class FunBaTCP(FunBaT):
    """The CP form: the core is the superdiagonal of ones and is not learned. Parameters as in ``FunBaT``; one rank."""

    product: moments.Product = "hadamard"

    def __init__(self, rank: int = 1, *args, **kwargs):
        for name in ("core", "update_core", "core_cov", "damping_core"):
            if name in kwargs:
                raise ValueError(f"{name} has no meaning for the CP form; use FunBaT")
        if not np.isscalar(rank):
            raise ValueError(f"rank {rank} must be one number for the CP form")
        super().__init__(rank, *args, update_core=False, **kwargs)

    def _check_ranks(self) -> None: ...

    def _start_core(self, rng: np.random.Generator) -> None: ...

    def _through_core(self, k: int, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return second, first

    def _update_core_and_noise(self) -> None:
        means, seconds = self._tables()
        linear = quadratic = 0.0
        k = int(np.argmin([len(m.t) for m in self._modes]))
        for states, z, zz in self._modes[k].sums(self.product, means, seconds):
            linear += float(np.sum(z * means[k][states]))
            quadratic += float(np.sum(zz * seconds[k][states]))
        self._update_noise(linear, quadratic)

    def _combine(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return moments.hadamard(values).sum(1)

    def _second_width(self) -> int:
        return self.ranks[0] ** 2

    def _square(self, seconds: Sequence[np.ndarray]) -> np.ndarray:
        return moments.hadamard(seconds).sum((1, 2))

    @property
    def core(self) -> Core:
        self._check_fitted()
        r, modes = self.ranks[0], len(self.ranks)
        mean = np.zeros([r] * modes)
        mean[(np.arange(r),) * modes] = 1.0
        return Core(mean, np.zeros((r**modes, r**modes)))

    def _core_parameters(self) -> int:
        return 0
