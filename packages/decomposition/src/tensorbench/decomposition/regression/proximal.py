"""Alternating proximal gradient for the contracted tensor GP: one start, from its initial parameters to its end.

The objective is NLL + lam (|grad A|_1 |B|_1 + |A|_1 |grad B|_1); the penalty is the anisotropic total variation of all
rank-one maps a_s b_t^T. One iteration: a gradient step in A followed by the exact prox of the penalty by rows (total
variation with weight |B|_1, l1 with weight |grad B|_1), the same in B, a rescaling of A to unit Frobenius norm (the
objective does not change), gradient steps in U1, U2 and U3 and in eta = log sigma^2.

With backtracking every step has to pass the sufficient-decrease test of proximal gradient methods, so that the
objective never increases; each block has a step size of its own, which never exceeds ``lr``.

As the paper states it the objective has no minimiser: scaling B by t and U2 by 1/t leaves the likelihood alone and
takes the penalty to zero, and a fit drifts that way (|B| falls, |U1| and |U2| grow). ``bounded`` keeps U1, U2 and U3
within the Frobenius norms that they start with, by projection, which closes that door; ``bounded=False`` is the paper's
iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tensorbench.decomposition.regression import multilinear_gp as gp
from tensorbench.decomposition.regression.multilinear_gp import Array, Evidence
from tensorbench.decomposition.regression.prox import prox_fused_lasso

GROWTH, SHRINK, MAX_HALVINGS = 1.5, 0.5, 30  # of a block's step size
LOG_NOISE_FLOOR = -18.0  # sigma about 1e-4: below, the likelihood of data without noise has no end


def l1(M: Array) -> float:
    return float(np.abs(M).sum())


def variation(M: Array) -> float:
    """|grad M|_1 along the rows."""
    return float(np.abs(np.diff(M, axis=1)).sum())


def tv_penalty(A: Array, B: Array, lam: float = 1.0) -> float:
    """lam (|grad A|_1 |B|_1 + |A|_1 |grad B|_1), the total variation of all maps a_s b_t^T."""
    return lam * (variation(A) * l1(B) + l1(A) * variation(B))


@dataclass(frozen=True)
class Parameters:
    """What is fitted; eta = log sigma^2."""

    A: Array
    B: Array
    U1: Array
    U2: Array
    U3: Array
    eta: float

    @property
    def kernel(self) -> tuple[Array, Array, Array]:
        return self.U1, self.U2, self.U3

    @property
    def sigma(self) -> float:
        return float(np.exp(0.5 * self.eta))

    def distance(self, other: Parameters) -> float:
        """Euclidean distance of all parameters together."""
        squares = sum(float(np.sum((getattr(self, k) - getattr(other, k)) ** 2)) for k in gp.NAMES)
        return float(np.sqrt(squares + (self.eta - other.eta) ** 2))


@dataclass(frozen=True)
class Plan:
    """What a start does: which blocks move, how far, and when it ends.

    ``masks`` are boolean matrices for A and B, true where an entry may be other than zero; with them there is no prox.
    """

    lam: float
    lr: float = 1e-4
    max_iter: int = 2000
    tol: float = 1e-3
    backtracking: bool = True
    fix_contraction: bool = False
    fix_kernel: bool = False  # U1 and U2 stay: Tensor-GP, whose factors are A and B
    rescale: bool = True
    bounded: bool = True  # U1, U2 and U3 never exceed the Frobenius norm that they start with
    masks: tuple[Array, Array] | None = None


class Images:
    """The training images in the two layouts that make both contractions one matrix product each."""

    def __init__(self, X: Array, y: Array):
        self.by_height = np.ascontiguousarray(X.transpose(2, 3, 1, 0))  # H W C N
        self.by_width = np.ascontiguousarray(X.transpose(3, 2, 1, 0))  # W H C N
        self.y = y

    def evidence(self, Z: Array, p: Parameters) -> tuple[Evidence, Array]:
        F = gp.project(Z, *p.kernel)
        return gp.evidence(F.reshape(-1, F.shape[-1]), self.y, np.exp(p.eta)), F

    def height_contraction(self, p: Parameters) -> Array:
        """A X: (h, W, C, N), what a step in B needs."""
        return gp.contract_rows(p.A, self.by_height)

    def width_contraction(self, p: Parameters) -> Array:
        """X B^T: (w, H, C, N), what a step in A needs."""
        return gp.contract_rows(p.B, self.by_width)


class Descent:
    """One start: its parameters ``p``, the latent images Z (h, w, C, N) that belong to them, and its history.

    ``objective`` and ``change`` (Euclidean distance of successive parameters) have an entry per iteration; ``best`` and
    ``best_value`` are the iterate with the smallest objective.
    """

    def __init__(self, images: Images, start: Parameters, plan: Plan):
        self.images, self.plan, self.p = images, plan, start
        self.objective: list[float] = []
        self.change: list[float] = []
        self.converged = False
        self.norms = {name: float(np.linalg.norm(getattr(start, name))) for name in ("U1", "U2", "U3")}
        self.steps = dict.fromkeys(("A", "B", "U", "eta"), plan.lr)
        self.Z = gp.contract_second(start.B, images.height_contraction(start))
        self.now, self.F = images.evidence(self.Z, start)
        self.best, self.best_value = start, self.value

    @property
    def value(self) -> float:
        return self.now.nll + tv_penalty(self.p.A, self.p.B, self.plan.lam)

    def _try(self, block: str, move, latent) -> None:
        """``move(step)`` gives new parameters, the first-order change of the NLL and the squared length of the move."""
        step = self.steps[block]
        for attempt in range(MAX_HALVINGS if self.plan.backtracking else 1):
            p, slope, length2 = move(step)
            if length2 == 0.0:
                return
            try:
                Z = latent(p)
                now, F = self.images.evidence(Z, p)
            except np.linalg.LinAlgError:
                now = None
            enough = now is not None and now.nll <= self.now.nll + slope + 0.5 * length2 / step + 1e-12 * abs(now.nll)
            if enough or (now is not None and not self.plan.backtracking):
                self.p, self.Z, self.now, self.F = p, Z, now, F
                if self.plan.backtracking:
                    self.steps[block] = min(step * GROWTH, self.plan.lr) if attempt == 0 else step
                return
            step *= SHRINK
        self.steps[block] = step

    def _gradient_by_Z(self) -> Array:
        return gp.pull_back(self.now.by_features.reshape(self.F.shape), *self.p.kernel)

    def contraction_step(self, name: str) -> None:
        """Gradient and prox in A or in B."""
        p, plan = self.p, self.plan
        M, other = (p.A, p.B) if name == "A" else (p.B, p.A)
        if name == "A":
            across = self.images.width_contraction(p)  # w H C N
            gradient = gp.gradient_second(np.ascontiguousarray(self._gradient_by_Z().transpose(1, 0, 2, 3)), across)
        else:
            across = self.images.height_contraction(p)  # h W C N
            gradient = gp.gradient_second(self._gradient_by_Z(), across)
        if plan.masks is not None:
            gradient = gradient * plan.masks[0 if name == "A" else 1]
        weights = (plan.lam * l1(other), plan.lam * variation(other))

        def move(step: float):
            new = M - step * gradient
            if plan.lam > 0 and plan.masks is None:
                new = prox_fused_lasso(new, step * weights[0], step * weights[1])
            moved = new - M
            return replace(p, **{name: new}), float(np.sum(gradient * moved)), float(np.sum(moved**2))

        def latent(new: Parameters) -> Array:
            Z = gp.contract_second(getattr(new, name), across)
            return np.ascontiguousarray(Z.transpose(1, 0, 2, 3)) if name == "A" else Z

        self._try(name, move, latent)

    def rescale(self) -> None:
        """A to unit norm, its scale to B: nothing else changes."""
        scale = float(np.linalg.norm(self.p.A))
        if scale > 0:
            self.p = replace(self.p, A=self.p.A / scale, B=self.p.B * scale)

    def _bounded(self, name: str, M: Array) -> Array:
        """The projection onto the ball of the norm that U1, U2 or U3 started with."""
        if not self.plan.bounded:
            return M
        return M * min(1.0, self.norms[name] / max(float(np.linalg.norm(M)), 1e-300))

    def kernel_step(self) -> None:
        """U1, U2 and U3 together."""
        p, G = self.p, self.now.by_features.reshape(self.F.shape)
        by = dict(zip(("U1", "U2", "U3"), gp.kernel_gradients(G, self.Z, *p.kernel), strict=True))
        if self.plan.fix_kernel:
            by = {"U3": by["U3"]}

        def move(step: float):
            new = {name: self._bounded(name, getattr(p, name) - step * g) for name, g in by.items()}
            moved = {name: M - getattr(p, name) for name, M in new.items()}
            slope = sum(float(np.sum(by[name] * d)) for name, d in moved.items())
            return replace(p, **new), slope, sum(float(np.sum(d**2)) for d in moved.values())

        self._try("U", move, lambda new: self.Z)

    def noise_step(self) -> None:
        p, g = self.p, self.now.by_log_noise

        def move(step: float):
            eta = max(p.eta - step * g, LOG_NOISE_FLOOR)
            return replace(p, eta=eta), g * (eta - p.eta), (eta - p.eta) ** 2

        self._try("eta", move, lambda new: self.Z)

    def iterate(self) -> None:
        if not self.plan.fix_contraction:
            self.contraction_step("A")
            self.contraction_step("B")
            if self.plan.rescale:
                self.rescale()
        self.kernel_step()
        self.noise_step()

    @property
    def collapsed(self) -> bool:
        """A or B is zero: the prediction ignores the images."""
        return not (self.p.A.any() and self.p.B.any())

    def run(self, iterations: int, watch: Callable[[int, Parameters], bool] | None = None) -> Descent:
        """Up to ``iterations`` more, fewer where the parameters change by less than ``tol`` or the maps collapse.

        ``watch`` is told every iterate and may end the run by returning true.
        """
        while not self.converged and iterations > 0:
            iterations -= 1
            before = self.p
            self.iterate()
            if self.collapsed:  # only the noise is left, and its best value is known
                eta = max(float(np.log(np.mean(self.images.y**2))), LOG_NOISE_FLOOR)
                self.p = replace(self.p, eta=eta)
                self.now, self.F = self.images.evidence(np.zeros_like(self.Z), self.p)
            self.objective.append(self.value)
            self.change.append(self.p.distance(before))
            if self.value <= self.best_value or self.collapsed:
                self.best, self.best_value = self.p, self.value
            self.converged = self.collapsed or self.change[-1] < self.plan.tol
            if watch is not None and watch(len(self.objective), self.p):
                break
        return self
