"""Tensor-GPST: Gaussian process regression on multi-channel images with a sparse, smooth contraction; and Tensor-GP.

H. Sun, W. Manchester, M. Jin, Y. Liu and Y. Chen, "Tensor Gaussian Process with Contraction for Multi-Channel Imaging
Analysis", ICML 2023 (arXiv 2301.11203). The model and its gradients are in ``multilinear_gp``, the alternating
proximal gradient in ``proximal``. Tensor-GP (R. Yu, G. Li, Y. Liu, "Tensor regression meets Gaussian processes",
AISTATS 2018) is the same without contraction: its factors along height and width take the places of A and B, and there
is no penalty.

The marginal likelihood alone does not stop A and B from fitting the noise: run to its end a fit is overconfident. Two
things regularise it, the penalty's weight and the number of iterations; with ``lam_path`` cross-validation chooses
both.

    model = TensorGPST(latent=(3, 3), rank=(3, 3, 3), lam_path=(0.3, 1, 3, 10), seed=0).fit(X, y)
    mean, std = model.predict(X_new, return_std=True)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin

from tensorbench.decomposition.regression import multilinear_gp as gp
from tensorbench.decomposition.regression.inputs import (
    check_images,
    check_latent_size,
    check_options,
    check_pair,
    check_training,
)
from tensorbench.decomposition.regression.proximal import Descent, Images, Parameters, Plan

log = logging.getLogger(__name__)
EVERY = 10  # iterations between looks at the held-out error


@dataclass(frozen=True)
class Path:
    """Held-out mean squared error: ``error[i, j, k]`` at penalty ``lams[i]``, ``iterations[j]``, in fold k."""

    lams: np.ndarray
    iterations: np.ndarray
    error: np.ndarray

    def best(self, rule: str) -> tuple[float, int]:
        """Penalty and number of iterations: ``min`` takes the smallest mean; ``one_se``, of all that are within one
        standard error of it, the fewest iterations, and of these the largest penalty."""
        mean = self.error.mean(axis=2)
        i, j = np.unravel_index(np.argmin(mean), mean.shape)
        if rule == "one_se":
            spread = self.error[i, j].std(ddof=1) / np.sqrt(self.error.shape[2])
            near = mean <= mean[i, j] + spread
            j = int(np.argmax(near.any(axis=0)))
            i = max(np.flatnonzero(near[:, j]), key=lambda k: self.lams[k])
        return float(self.lams[i]), int(self.iterations[j])


class _MultilinearGP(RegressorMixin, BaseEstimator):
    """What both models share: checks, starts, cross-validation, prediction."""

    def _plan(self, lam: float, max_iter: int) -> Plan:
        raise NotImplementedError

    def _start(self, X: np.ndarray, rng: np.random.Generator) -> Parameters:
        raise NotImplementedError

    def _lams(self) -> Sequence[float] | None:
        """The penalties to choose from, or None where nothing is chosen."""
        raise NotImplementedError

    def fit(self, X: Float[np.ndarray, "n c H W"], y: Float[np.ndarray, " n"]):
        """Fit images (N, C, H, W) to numbers.

        Raises:
            ValueError: images that are not 4-D or have their channels last, another number of targets than images, NaN,
                constant targets, a latent size above the image's, a rank above the latent size, a negative penalty,
                masks of another shape.
        """
        X, y = check_training(X, y)
        check_options(self, len(y))
        self._check(X)
        self.shape_ = X.shape[1:]
        self.offset_ = float(y.mean()) if self.center else 0.0
        lam, iterations = getattr(self, "lam", 0.0), self.max_iter
        lams = self._lams()
        self.path_ = None
        if lams is not None:
            self.path_ = self._cross_validate(X, y, lams)
            lam, iterations = self.path_.best(self.rule)
        state = self._descend(Images(X, y - self.offset_), X, self._plan(lam, iterations), [self.seed, 0])
        p = state.best
        self.lam_, self.n_iter_, self.converged_, self.collapsed_ = (
            lam,
            len(state.objective),
            state.converged,
            state.collapsed,
        )
        if state.collapsed:
            log.warning("every start ended with A = 0 or B = 0: lam %g is too large for these data", lam)
        self.history = {"objective": np.array(state.objective), "change": np.array(state.change)}
        self.objective_, self.parameters_ = state.best_value, p
        self._F, self._y = gp.features(gp.latent(X, p.A, p.B), *p.kernel), y - self.offset_
        return self

    def _descend(self, images: Images, X: np.ndarray, plan: Plan, seed: list[int], watch=None) -> Descent:
        """The most promising of ``restarts`` starts after ``pilot`` iterations, run on to its end.

        Where all of them collapsed to zero maps, as many again are tried.
        """
        rng = np.random.default_rng(seed)
        best: Descent | None = None
        pilot = min(self.pilot, plan.max_iter) if self.restarts > 1 else 0
        for number in range(2 * self.restarts):
            if number >= self.restarts and best is not None and not best.collapsed:
                break
            state = Descent(images, self._start(X, rng), plan).run(pilot)
            if best is None or (state.collapsed, state.best_value) < (best.collapsed, best.best_value):
                best = state
            if pilot == 0:
                if watch is not None and best is state:
                    watch.restart()
                best.run(plan.max_iter, watch)
                if not best.collapsed:
                    return best
        assert best is not None
        if watch is not None:
            watch(len(best.objective), best.p)
        return best.run(plan.max_iter - len(best.objective), watch)

    def _cross_validate(self, X: np.ndarray, y: np.ndarray, lams: Sequence[float]) -> Path:
        """Held-out error along the way for every penalty and fold.

        A run ends where its held-out error has not improved for ``patience`` iterations; its last value then stands for
        all later ones. Starts are drawn anew in every fold: a fit to all data would have seen what is held out.
        """
        rng = np.random.default_rng([self.seed, 1])
        folds = np.array_split(rng.permutation(len(y)), self.cv)
        first = self.pilot if self.restarts > 1 else EVERY  # what the first look sees
        iterations = np.arange(first, max(self.max_iter, first) + 1, EVERY)
        error = np.empty((len(lams), len(iterations), self.cv))
        for k, held in enumerate(folds):
            kept = np.setdiff1d(np.arange(len(y)), held)
            offset = y[kept].mean() if self.center else 0.0
            images = Images(X[kept], y[kept] - offset)
            for i, lam in enumerate(lams):
                watch = _HeldOut(X[kept], y[kept] - offset, X[held], y[held] - offset, self.patience)
                self._descend(images, X[kept], self._plan(lam, int(iterations[-1])), [self.seed, 2, k], watch)
                error[i, :, k] = watch.curve(iterations)
        return Path(np.asarray(lams, dtype=float), iterations, error)

    # ------------------------------------------------------------------ what a fitted model says

    @property
    def sigma(self) -> float:
        """The noise's standard deviation, in the targets' units."""
        return self._fitted().sigma

    def _fitted(self) -> Parameters:
        if not hasattr(self, "parameters_"):
            raise ValueError("call fit before using the model")
        return self.parameters_

    def contract(self, X: Float[np.ndarray, "n c H W"]) -> Float[np.ndarray, "n c h w"]:
        """The contracted images A X B^T."""
        p = self._fitted()
        return gp.latent(check_images(X, self.shape_), p.A, p.B)

    def predict(self, X: Float[np.ndarray, "n c H W"], return_std: bool = False, include_noise: bool = True):
        """The posterior mean; with ``return_std`` also the standard deviation, of new observations or, without
        ``include_noise``, of the function.

        Raises:
            ValueError: images of another shape than the fitted ones, or not fitted yet.
        """
        p = self._fitted()
        mean, variance = gp.predict(self._F, self._y, gp.features(self.contract(X), *p.kernel), p.sigma)
        mean = mean + self.offset_
        return (mean, np.sqrt(variance + include_noise * p.sigma**2)) if return_std else mean


class _HeldOut:
    """Told a run's iterates, remembers the held-out error of every few and ends what has stopped improving."""

    def __init__(self, X: np.ndarray, y: np.ndarray, X_held: np.ndarray, y_held: np.ndarray, patience: int):
        self.train, self.y, self.held, self.y_held, self.patience = X, y, X_held, y_held, patience
        self.seen: dict[int, float] = {}

    def restart(self) -> None:
        """Forget a run that was given up, as another start follows."""
        self.seen.clear()

    def __call__(self, iteration: int, p: Parameters) -> bool:
        if iteration % EVERY and self.seen:
            return False
        F, F_held = (gp.features(gp.latent(part, p.A, p.B), *p.kernel) for part in (self.train, self.held))
        self.seen[iteration] = float(np.mean((gp.predict(F, self.y, F_held, p.sigma)[0] - self.y_held) ** 2))
        return iteration - min(self.seen, key=self.seen.__getitem__) >= self.patience

    def curve(self, iterations: np.ndarray) -> np.ndarray:
        """The error at every one of ``iterations``: the last one seen by then, or the first where none was."""
        at = np.array(sorted(self.seen))
        place = np.maximum(np.searchsorted(at, iterations, side="right") - 1, 0)
        return np.array([self.seen[n] for n in at])[place]


class TensorGPST(_MultilinearGP):
    """Tensor Gaussian process with contraction (the paper's Tensor-GPST).

    Args:
        latent: h and w, the size of the contracted images.
        rank: r1, r2, r3, the ranks of the kernel along height, width and channels.
        lam: weight of the penalty on A and B; not used where ``lam_path`` is given.
        lr: step size; with ``backtracking`` the largest one.
        max_iter, tol: a start ends after so many iterations, or where all parameters together move by less than tol.
        restarts: starts, of which the best after ``pilot`` iterations goes on.
        init: ``random``; ``hard``: zero outside ``masks`` throughout, without a penalty; ``fixed``: the contraction is
            ``contraction`` and stays.
        masks: boolean (h, H) and (w, W), true where A and B may be other than zero.
        sigma0: the noise's standard deviation at the start.
        lam_path: penalties; the one to take, and when to stop, are chosen by ``cv``-fold cross-validation, which gives
            up on a run after ``patience`` iterations without improvement. ``rule``: see :meth:`Path.best`.
        center: subtract the mean of y (the paper's model does not).
        bounded: see :mod:`tensorbench.decomposition.regression.proximal`; false is the paper's iteration.
    """

    def __init__(
        self,
        latent: tuple[int, int] = (3, 3),
        rank: tuple[int, int, int] = (3, 3, 3),
        lam: float = 1.0,
        lr: float = 1e-4,
        max_iter: int = 2000,
        tol: float = 1e-3,
        restarts: int = 3,
        init: str = "random",
        masks: tuple[Any, Any] | None = None,
        contraction: tuple[Any, Any] | None = None,
        sigma0: float = 0.5,
        lam_path: Sequence[float] | None = None,
        cv: int = 5,
        rule: str = "one_se",
        patience: int = 50,
        pilot: int = 30,
        center: bool = False,
        backtracking: bool = True,
        bounded: bool = True,
        seed: int = 0,
    ):
        self.latent, self.rank = latent, rank
        self.lam, self.lr, self.max_iter, self.tol = lam, lr, max_iter, tol
        self.restarts, self.init, self.masks, self.contraction = restarts, init, masks, contraction
        self.sigma0, self.lam_path, self.cv, self.rule, self.patience, self.pilot = (
            sigma0,
            lam_path,
            cv,
            rule,
            patience,
            pilot,
        )
        self.center, self.backtracking, self.bounded, self.seed = center, backtracking, bounded, seed

    @property
    def A(self) -> np.ndarray:
        """The contraction along the height (h, H)."""
        return self._fitted().A

    @property
    def B(self) -> np.ndarray:
        """The contraction along the width (w, W)."""
        return self._fitted().B

    @property
    def U(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U1, U2, U3: the kernel's factors, K_j = U_j^T U_j."""
        return self._fitted().kernel

    def feature_maps(self) -> Float[np.ndarray, "h w H W"]:
        """The rank-one maps a_s b_t^T: what pixel (s, t) of the contracted image weighs."""
        return np.einsum("si,tj->stij", self.A, self.B)

    def _lams(self) -> Sequence[float] | None:
        return self.lam_path

    def _check(self, X: np.ndarray) -> None:
        check_latent_size(self.latent, self.rank, X.shape)
        if self.init not in ("random", "hard", "fixed"):
            raise ValueError(f"init {self.init!r} is not 'random', 'hard' or 'fixed'")
        shapes = tuple(zip(self.latent, X.shape[2:], strict=True))
        for name, kind in (("masks", "hard"), ("contraction", "fixed")):
            if self.init == kind:
                check_pair(name, getattr(self, name), shapes)

    def _plan(self, lam: float, max_iter: int) -> Plan:
        masks = tuple(np.asarray(mask, dtype=bool) for mask in self.masks) if self.init == "hard" else None
        return Plan(
            0.0 if self.init != "random" else lam,
            self.lr,
            max_iter,
            self.tol,
            self.backtracking,
            fix_contraction=self.init == "fixed",
            bounded=self.bounded,
            masks=masks,
        )

    def _start(self, X: np.ndarray, rng: np.random.Generator) -> Parameters:
        """A of unit norm and B normal; U1 and U2 such that |U^T U|_F = 1; U3 normal."""
        (c, H, W), (h, w), (r1, r2, r3) = X.shape[1:], self.latent, self.rank
        A, B = rng.normal(size=(h, H)), rng.normal(size=(w, W))
        if self.init == "fixed":
            A, B = (np.array(M, dtype=np.float64) for M in self.contraction)
        else:
            if self.init == "hard":
                A, B = A * np.asarray(self.masks[0], dtype=bool), B * np.asarray(self.masks[1], dtype=bool)
            A = A / np.linalg.norm(A)
        U1, U2, U3 = rng.normal(size=(r1, h)), rng.normal(size=(r2, w)), rng.normal(size=(r3, c))
        U1, U2 = (U / np.sqrt(np.linalg.norm(U.T @ U)) for U in (U1, U2))
        return Parameters(A, B, U1, U2, U3, 2.0 * float(np.log(self.sigma0)))


class TensorGP(_MultilinearGP):
    """Tensor Gaussian process without contraction: k(X, X') = vec(X)^T (K3 ⊗ K2 ⊗ K1) vec(X'), K_j = U_j^T U_j.

    Args:
        rank: r1, r2, r3; U1 is (r1, H), U2 (r2, W), U3 (r3, C), normal with standard deviation ``scale`` at the start.
        early_stopping: choose the number of iterations by ``cv``-fold cross-validation, up to ``max_iter``.
        others: as for :class:`TensorGPST`.
    """

    def __init__(
        self,
        rank: tuple[int, int, int] = (3, 3, 3),
        lr: float = 1e-4,
        max_iter: int = 2000,
        tol: float = 1e-3,
        restarts: int = 1,
        sigma0: float = 0.5,
        scale: float = 1.0,
        early_stopping: bool = False,
        cv: int = 5,
        rule: str = "one_se",
        patience: int = 50,
        pilot: int = 30,
        center: bool = False,
        backtracking: bool = True,
        seed: int = 0,
    ):
        self.rank, self.lr, self.max_iter, self.tol = rank, lr, max_iter, tol
        self.restarts, self.sigma0, self.scale, self.early_stopping = restarts, sigma0, scale, early_stopping
        self.cv, self.rule, self.patience, self.pilot = cv, rule, patience, pilot
        self.center, self.backtracking, self.seed = center, backtracking, seed

    @property
    def U(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """U1 (r1, H), U2 (r2, W) and U3 (r3, C)."""
        p = self._fitted()
        return p.A, p.B, p.U3

    def _lams(self) -> Sequence[float] | None:
        return (0.0,) if self.early_stopping else None

    def _check(self, X: np.ndarray) -> None:
        check_latent_size(X.shape[2:], self.rank, X.shape)
        if not self.scale > 0:
            raise ValueError(f"scale {self.scale} must be positive")

    def _plan(self, lam: float, max_iter: int) -> Plan:
        return Plan(0.0, self.lr, max_iter, self.tol, self.backtracking, fix_kernel=True, rescale=False, bounded=False)

    def _start(self, X: np.ndarray, rng: np.random.Generator) -> Parameters:
        (c, H, W), (r1, r2, r3) = X.shape[1:], self.rank
        U1, U2, U3 = (self.scale * rng.normal(size=size) for size in ((r1, H), (r2, W), (r3, c)))
        return Parameters(U1, U2, np.eye(r1), np.eye(r2), U3, 2.0 * float(np.log(self.sigma0)))
