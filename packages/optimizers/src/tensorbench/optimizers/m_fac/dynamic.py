"""Products with the inverse of F = λI + (1/m) Σ gᵢgᵢᵀ over a sliding window of m gradients.

Frantar, Kurtic and Alistarh (2021), *M-FAC*, arXiv 2107.03356, the dynamic algorithm. The window G and its products
GGᵀ are kept; a new gradient replaces the oldest one and one row and column of GGᵀ. The paper factors S = mI + GGᵀ/λ
by LU without pivoting and runs the recursion of its two triangles in m coefficients; S is symmetric, so that one
Cholesky factorisation, S = RRᵀ, does the same:

    F⁻¹x = x/λ - Gᵀ S⁻¹ (Gx) / λ².

A product costs two passes over G and O(m²), replacing a gradient one pass and O(m³). All of size m is in double
precision, all of size d in that of the gradients. A window that is not yet full holds zeros and still divides by m, as
the authors' does, so that the first steps are those of a larger λ.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..base import positive, whole


class DynamicMFAC:
    """F⁻¹ of the last ``m`` gradients of length ``d``.

    Raises:
        ValueError: ``m`` or ``d`` below 1, ``damp`` not positive; in ``update`` a gradient of another length, or with
            NaN or infinity (the number of the update is named; the window stays as it was).
    """

    def __init__(
        self, m: int, d: int, damp: float = 1e-5, dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        self.m, self.d, self.damp = whole("m", m), whole("d", d), positive("damp", damp)
        self.grads = torch.zeros(m, d, dtype=dtype, device=device)
        self.dots = torch.zeros(m, m, dtype=torch.float64, device=device)
        self.next, self.count, self.updates = 0, 0, 0
        self._root: Tensor | None = None

    def _check(self, x: Tensor) -> Tensor:
        if tuple(x.shape) != (self.d,):
            raise ValueError(f"expected a vector of {self.d} numbers, got shape {tuple(x.shape)}")
        return x.to(self.grads.dtype)

    def update(self, g: Float[Tensor, " d"]) -> None:
        """Put a gradient in the place of the oldest one."""
        self._replace(g)

    def _replace(self, g: Tensor) -> Tensor:
        g = self._check(g)
        if not bool(torch.isfinite(g).all()):
            raise ValueError(f"the gradient of update {self.updates + 1} has NaN or infinity; it was not taken in")
        self.grads[self.next] = g
        products = (self.grads @ g).double()
        self.dots[self.next], self.dots[:, self.next] = products, products
        self.next = (self.next + 1) % self.m
        self.count, self.updates = min(self.count + 1, self.m), self.updates + 1
        self._root = None
        return products

    def remove_oldest(self) -> None:
        """Take the oldest gradient out of the window; its place holds zeros.

        Raises:
            ValueError: the window is empty.
        """
        if self.count == 0:
            raise ValueError("the window is empty")
        oldest = (self.next - self.count) % self.m
        self.grads[oldest] = 0
        self.dots[oldest], self.dots[:, oldest] = 0, 0
        self.count -= 1
        self._root = None

    def window(self) -> Float[Tensor, "count d"]:
        """The gradients in the window, oldest first."""
        places = [(self.next - self.count + k) % self.m for k in range(self.count)]
        return self.grads[places]

    def _factor(self) -> Tensor:
        if self._root is None:
            small = self.dots / self.damp
            small.diagonal().add_(self.m)
            self._root = torch.linalg.cholesky(small)
        return self._root

    def mul(self, x: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """F⁻¹x."""
        x = self._check(x)
        return self._finish(x, (self.grads @ x).double())

    def update_mul(self, g: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """``update(g)`` and then ``mul(g)``, with one pass over the window less."""
        products = self._replace(g)
        return self._finish(self._check(g), products)

    def _finish(self, x: Tensor, products: Tensor) -> Tensor:
        solved = torch.cholesky_solve(products[:, None], self._factor())[:, 0] / self.damp**2
        return torch.addmv(x, self.grads.T, solved.to(x.dtype), beta=1 / self.damp, alpha=-1)

    def state_dict(self) -> dict[str, Any]:
        """The window and where it stands."""
        kept = {key: getattr(self, key) for key in ("m", "d", "damp", "next", "count", "updates")}
        return {**kept, "grads": self.grads.clone(), "dots": self.dots.clone()}

    def check_size(self, state: dict[str, Any]) -> None:
        """Refuse, by ValueError, the ``state_dict`` of a window of another size."""
        if (state["m"], state["d"]) != (self.m, self.d):
            raise ValueError(f"this state is of a window of {state['m']} × {state['d']}, not {self.m} × {self.d}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``.

        Raises:
            ValueError: a window of another size.
        """
        self.check_size(state)
        self.grads.copy_(state["grads"])
        self.dots.copy_(state["dots"])
        self.damp, self.next, self.count = state["damp"], state["next"], state["count"]
        self.updates, self._root = state["updates"], None
