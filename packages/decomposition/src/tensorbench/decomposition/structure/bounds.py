"""What the higher-order singular values say about the best Tucker decomposition before any is fitted.

Ghadiri et al. (2023), arXiv 2302.03886, after De Lathauwer, De Moor and Vandewalle (2000): for a core shape r

    max_n tail_n(r_n)  ≤  L(r)  ≤  S(r) = Σ_n tail_n(r_n)  ≤  N L(r),

L the squared error of the best Tucker decomposition, tail_n the squared singular values left out in mode n, S the
loss of the packing problem (and a bound on that of HOSVD truncation). A shape that minimises S therefore has an error
within a factor N of the best shape's; one from the approximation scheme within N (1 + what the scheme leaves on the
table).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tensorbench.decomposition.structure.hosv import Spectra, as_hosv, check_core, surrogate_loss


@dataclass(frozen=True)
class LossBounds:
    """``lower`` ≤ L(r) ≤ ``upper``, in squared units of the tensor; ``factor`` = upper / lower ≤ number of modes."""

    lower: float
    upper: float

    @property
    def factor(self) -> float:
        """How far the surrogate can be from the truth for this shape; 1 where both are zero."""
        return self.upper / self.lower if self.lower > 0 else 1.0


def bounds(X: Spectra, core: Sequence[int]) -> LossBounds:
    """Bounds on the squared error of the best Tucker decomposition of ``X`` with core shape ``core``.

    ``lower`` = max(max_n tail_n, S / N); the first is never the smaller of the two. Raises ValueError on ranks that
    do not fit the tensor.
    """
    s = as_hosv(X)
    shape = check_core(s.shape, core)
    tail = [float(suffix[rank]) for suffix, rank in zip(s.suffixes, shape, strict=True)]
    return LossBounds(lower=max(tail), upper=surrogate_loss(s, shape))


def optimality_gap(X: Spectra, budget: float) -> LossBounds:
    """Bounds on the least squared error that any Tucker decomposition within ``budget`` parameters can reach.

    ``upper`` is the least surrogate loss within the budget (exact search), ``lower`` = ``upper`` / N.
    """
    from tensorbench.decomposition.structure.packing import exact

    s = as_hosv(X)
    best = exact(s, budget).surrogate_loss
    return LossBounds(lower=best / len(s.shape), upper=best)
