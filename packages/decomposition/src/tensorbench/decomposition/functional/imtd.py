"""Recovering tensors with implicit low-rank models: inpainting, denoising, scattered points, surfaces, upsampling.

"Implicit Multiple Tensor Decomposition" (arXiv 2511.09916): the factors of a Multiple decomposition are networks of
sines (:mod:`.inr`), so that the tensor is a function of real-valued indices. With ``model="tucker"`` the estimator is
LRTFR (arXiv 2212.00262), with ``model="cp"`` a CP of networks; all else is shared. Two optimisers:

    adam    all networks at once on |M ∘ (f − X)|_F (not squared) with weight decay
    pals    the networks in turn: K Adam steps on ½ mean (M ∘ (f − X))² + ½ ρ |θ_n − θ_n,old|², taken only if this
            falls. Then F_old − F_new ≥ ½ ρ |Δθ_n|² and Σ |Δθ|² ≤ 2 (F_0 − F_end) / ρ, as for exact blocks. F is of
            all cells or points and without weight decay, or neither bound would say anything about it.

Values are standardised by the mean and deviation of what is observed. A part of the observed cells is held out; the
networks of the step with the lowest error on it are kept (early stopping, which is what regularises the fit).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tensorbench.core import training
from tensorbench.core.errors import unknown

from .inr import MODELS, TensorFunction
from .pals import Monitor

logger = logging.getLogger(__name__)
FEWEST_POINTS = 10


class IMTD:
    """A low-rank function fitted to a tensor, to scattered points, or to a surface.

    Args:
        ranks: short sizes, one per mode (``multiple``); core shape (``tucker``); one rank (``cp``).
        model: ``multiple``, ``tucker`` (LRTFR) or ``cp``.
        width, depth, omega0: of the networks of sines; ``omega0`` one number or one per mode.
        steps: of Adam; with pals, sweeps are ``steps / (inner_steps · blocks)``.
        lr: of Adam; it falls along a cosine (with pals it stays).
        weight_decay: of Adam, 0.3 unless said; pals has none.
        holdout: share of the observed cells for early stopping, unless they are given; 0 keeps the last step.
        evaluate_every: steps between looks at the held-out cells; pals looks after every sweep.
        sparse: threshold of an l1 term on a sparse part S of X = f + S + noise, in units of the data's deviation.
        batch: scattered points per step; None takes all, as pals always does.
        optimizer: ``adam``, or ``pals`` for ``fit`` and ``fit_points``; ``rho`` and ``inner_steps`` belong to pals.
        dtype, device: of the networks.

    Raises:
        ValueError: an unknown model or optimizer, numbers out of range, weight decay or a batch for pals.
    """

    def __init__(
        self,
        ranks: Sequence[int] | int,
        *,
        model: str = "multiple",
        width: int = 96,
        depth: int = 2,
        omega0: float | Sequence[float] = 10.0,
        steps: int = 1000,
        lr: float = 3e-3,
        weight_decay: float | None = None,
        holdout: float = 0.05,
        evaluate_every: int = 20,
        sparse: float | None = None,
        batch: int | None = None,
        optimizer: str = "adam",
        rho: float = 1e-3,
        inner_steps: int = 5,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if model not in MODELS:
            raise ValueError(unknown("model", model, list(MODELS)))
        if optimizer not in ("adam", "pals"):
            raise ValueError(unknown("optimizer", optimizer, ["adam", "pals"]))
        if optimizer == "pals" and (batch is not None or weight_decay):
            raise ValueError(
                f"pals descends on the plain loss of all points; batch {batch} and weight_decay {weight_decay} are "
                "Adam's: leave them out or take optimizer='adam'"
            )
        if weight_decay is None:
            weight_decay = 0.3 if optimizer == "adam" else 0.0
        if steps < 1 or lr <= 0 or weight_decay < 0 or rho <= 0 or inner_steps < 1 or not 0 <= holdout < 1:
            raise ValueError(
                f"steps {steps} and inner_steps {inner_steps} >= 1, lr {lr} and rho {rho} > 0, weight_decay "
                f"{weight_decay} >= 0 and holdout {holdout} in [0, 1) are needed"
            )
        if sparse is not None and not sparse > 0:
            raise ValueError(f"sparse {sparse} is a threshold and must be positive, or None for no sparse part")
        self.ranks, self.kind, self.steps, self.lr, self.weight_decay = ranks, model, steps, lr, weight_decay
        self.network = {"width": width, "depth": depth, "omega0": omega0, "seed": seed}
        self.holdout, self.evaluate_every, self.sparse, self.batch = holdout, evaluate_every, sparse, batch
        self.optimizer, self.rho, self.inner_steps = optimizer, rho, inner_steps
        self.seed, self.dtype, self.device = seed, dtype, device

    # ------------------------------------------------------------------ fitting

    def fit(
        self,
        X: Float[np.ndarray, "..."],
        mask: Bool[np.ndarray, "..."] | None = None,
        held: Bool[np.ndarray, "..."] | Int[np.ndarray, "..."] | None = None,
    ) -> IMTD:
        """Fit to the cells of ``X`` where ``mask`` is true (all by default); index i of a mode is its coordinate.

        ``held`` marks observed cells for early stopping; by default a random share ``holdout`` of them.

        Raises:
            ValueError: fewer than two modes, NaN in observed cells, nothing observed, shapes that do not fit, held
                cells that are not observed or leave none to fit.
        """
        X = np.asarray(X, dtype=np.float64)
        mask = np.ones(X.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
        if X.ndim < 2 or mask.shape != X.shape:
            raise ValueError(f"X has shape {X.shape} and mask {mask.shape}; expected the same, with two modes or more")
        if not np.isfinite(X[mask]).all():
            raise ValueError("observed cells hold NaN or infinity; take them out of the mask")
        if mask.sum() < FEWEST_POINTS:
            raise ValueError(f"{int(mask.sum())} observed cells are too few; at least {FEWEST_POINTS} are needed")
        for mode in range(X.ndim):
            blind = ~mask.any(axis=tuple(m for m in range(X.ndim) if m != mode))
            if blind.any():
                logger.warning("mode %d: %d slices without observed cells are interpolated", mode, int(blind.sum()))
        if held is None:
            held = np.zeros(X.shape, dtype=bool)
            cells = np.flatnonzero(mask)
            pick = np.random.default_rng(self.seed).permutation(cells)[: round(self.holdout * len(cells))]
            held.reshape(-1)[pick] = True
        held = np.asarray(held, dtype=bool)
        if held.shape != X.shape or (held & ~mask).any() or not (mask & ~held).any():
            raise ValueError(
                f"held has shape {held.shape} for X of {X.shape} and marks {int(held.sum())} cells; they must be "
                "observed cells, and some must be left to fit"
            )
        self.shape = X.shape
        self._standardise(X[mask])
        self._build([(0.0, max(n - 1.0, 1.0)) for n in X.shape])
        coords = [torch.arange(n, dtype=self.dtype, device=self.device) for n in X.shape]
        target = self._tensor(np.where(mask, (X - self.offset) / self.scale, 0.0))
        seen = torch.as_tensor(mask & ~held, device=self.device)
        self._optimise(
            lambda _: (self.model.grid(coords) - target)[seen],
            (lambda: (self.model.grid(coords) - target)[torch.as_tensor(held, device=self.device)])
            if held.any()
            else None,
        )
        return self

    def fit_points(
        self,
        coords: Float[np.ndarray, "n order"],
        values: Float[np.ndarray, " n"],
        domain: Sequence[tuple[float, float]] | None = None,
    ) -> IMTD:
        """Fit to values at scattered real-valued coordinates; ``domain`` by default is their extent.

        Raises:
            ValueError: fewer than 10 points, NaN, coordinates outside the domain.
        """
        coords, values = np.asarray(coords, dtype=np.float64), np.asarray(values, dtype=np.float64)
        if coords.ndim != 2 or values.shape != (len(coords),):
            raise ValueError(
                f"coords {coords.shape} and values {values.shape} do not match; expected (n, order) and (n,)"
            )
        if len(values) < FEWEST_POINTS:
            raise ValueError(f"{len(values)} points are too few; at least {FEWEST_POINTS} are needed")
        if not (np.isfinite(coords).all() and np.isfinite(values).all()):
            raise ValueError("coords or values hold NaN or infinity; drop those points first")
        self.__dict__.pop("shape", None)  # that of an earlier fit to a tensor
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(values))
        cut = round(self.holdout * len(values))
        self._standardise(values)
        self._build(domain if domain is not None else list(zip(coords.min(0), coords.max(0), strict=True)))
        points, target = self._tensor(coords), self._tensor((values - self.offset) / self.scale)
        self.model(points[:1])  # refuses a wrong number of modes before training
        held, kept = torch.as_tensor(order[:cut]), torch.as_tensor(order[cut:])
        self.model._refuse(points, range(points.shape[1]), False)
        generator = torch.Generator().manual_seed(self.seed)

        def residual(whole: bool) -> Tensor:
            pick = kept
            if self.batch is not None and self.batch < len(kept) and not whole:
                pick = kept[torch.randint(len(kept), (self.batch,), generator=generator)]
            # the norm of a batch estimates that of all points
            return (self.model(points[pick], extrapolate=True) - target[pick]) * (len(kept) / len(pick)) ** 0.5

        self._optimise(residual, (lambda: self.model(points[held], extrapolate=True) - target[held]) if cut else None)
        return self

    def fit_surface(
        self,
        points: Float[np.ndarray, "n order"],
        normals: Float[np.ndarray, "n order"] | None = None,
        *,
        margin: float = 0.3,
        eikonal: float = 0.1,
        away: float = 0.1,
    ) -> IMTD:
        """A signed distance f whose zero set passes through ``points`` (a point cloud), as LRTFR fits it.

        The loss is mean |f| + mean |∇f − normal| on the points, ``eikonal`` · mean ||∇f| − 1| and ``away`` ·
        mean exp(−20 |f|) in the box around them, which is ``margin`` wider than the cloud. Without normals the sign is
        arbitrary. Distances are in the units of the points. Always Adam, on points drawn anew for every step, without
        weight decay and without early stopping.

        Raises:
            ValueError: ``optimizer="pals"``, fewer than 10 points, points or normals not finite or of other shapes.
        """
        if self.optimizer == "pals":
            raise ValueError(
                "a surface is fitted to points drawn anew for every step, on which no descent can be checked as pals "
                "needs it; take optimizer='adam'"
            )
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or len(points) < FEWEST_POINTS or not np.isfinite(points).all():
            raise ValueError(f"points of shape {points.shape} must be at least {FEWEST_POINTS} finite rows")
        if normals is not None:
            normals = np.asarray(normals, dtype=np.float64)
            if normals.shape != points.shape or not np.isfinite(normals).all():
                raise ValueError(f"normals of shape {normals.shape} must be finite, one row for each of {points.shape}")
        self.__dict__.pop("shape", None)  # that of an earlier fit to a tensor
        low, high = points.min(0), points.max(0)
        room = margin * float((high - low).max())
        self.offset, self.scale = 0.0, 1.0
        self._build(list(zip(low - room, high + room, strict=True)))
        surface, box = self._tensor(points), (self._tensor(low - room), self._tensor(high - low + 2 * room))
        directions = None if normals is None else self._tensor(normals)
        generator = torch.Generator().manual_seed(self.seed)
        size = self.batch or len(points)

        def loss(model: TensorFunction, _: Any) -> Tensor:
            pick = torch.randint(len(surface), (size,), generator=generator)
            shares = torch.rand((size, points.shape[1]), generator=generator, dtype=self.dtype)  # drawn on the CPU
            free = box[0] + box[1] * shares.to(self.device)
            slope = model.gradient(free).norm(dim=1)
            total = model(surface[pick], extrapolate=True).abs().mean() + eikonal * (slope - 1).abs().mean()
            total = total + away * torch.exp(-20 * model(free, extrapolate=True).abs()).mean()
            if directions is not None:
                total = total + (model.gradient(surface[pick]) - directions[pick]).norm(dim=1).mean()
            return total

        self.monitor = Monitor()
        optimiser = torch.optim.Adam(self.model.parameters(), lr=self.lr)
        history = training.fit(self.model, [None], loss, optimiser, steps=self.steps, schedule="cosine")
        self.monitor.train = history.losses
        self._warn(history)
        return self

    # ------------------------------------------------------------------ using

    def predict(self, coords: Float[np.ndarray, "n order"], extrapolate: bool = False) -> Float[np.ndarray, " n"]:
        """Values at real-valued coordinates."""
        self._fitted()
        with torch.no_grad():
            found = self.model(self._tensor(np.asarray(coords, dtype=np.float64)), extrapolate)
        return self.offset + self.scale * found.double().cpu().numpy()

    def predict_grid(self, coords: Sequence[Float[np.ndarray, " _"]]) -> Float[np.ndarray, "..."]:
        """Values on the product grid of one list of coordinates per mode."""
        self._fitted()
        with torch.no_grad():
            found = self.model.grid([self._tensor(np.asarray(x, dtype=np.float64)) for x in coords])
        return self.offset + self.scale * found.double().cpu().numpy()

    def full(self) -> Float[np.ndarray, "..."]:
        """The whole tensor that ``fit`` was given a part of."""
        return self.upsample(1)

    def upsample(self, factor: int | Sequence[int]) -> Float[np.ndarray, "..."]:
        """The tensor on a grid ``factor`` times as fine (one factor, or one per mode), ends kept.

        Raises:
            ValueError: not fitted to a tensor, a factor below 1.
        """
        if not hasattr(self, "shape"):
            raise ValueError("upsample needs a model fitted to a tensor by fit; use predict for scattered points")
        factors = list(factor) if isinstance(factor, Sequence) else [factor] * len(self.shape)
        if len(factors) != len(self.shape) or any(f < 1 for f in factors):
            raise ValueError(f"factor {factor!r} must be at least 1, one number or one per mode ({len(self.shape)})")
        fine = [np.linspace(0, n - 1, (n - 1) * int(f) + 1) for n, f in zip(self.shape, factors, strict=True)]
        return self.predict_grid(fine)

    def num_params(self) -> int:
        self._fitted()
        return self.model.num_params()

    # ------------------------------------------------------------------ inside

    def _fitted(self) -> None:
        if not hasattr(self, "model"):
            raise ValueError("call fit, fit_points or fit_surface first")

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values).to(self.dtype).to(self.device)

    def _standardise(self, values: np.ndarray) -> None:
        self.offset, self.scale = float(values.mean()), float(values.std()) or 1.0

    def _build(self, domain: Sequence[tuple[float, float]]) -> None:
        self.model = MODELS[self.kind](domain, self.ranks, **self.network).to(self.dtype).to(self.device)

    def _clean(self, residual: Tensor) -> Tensor:
        """The residual without its sparse part, which for given f is the soft threshold of it."""
        if self.sparse is None:
            return residual
        part = residual.detach()
        return residual - torch.sign(part) * (part.abs() - self.sparse).clamp(min=0)

    def _optimise(self, residual: Callable[[bool], Tensor], held: Callable[[], Tensor] | None) -> None:
        self.monitor = Monitor()
        best: dict[str, Any] = {"error": np.inf, "state": None}

        def look(step: int, train: float) -> None:
            self.monitor.steps.append(step)
            self.monitor.train.append(train * self.scale)
            if held is None:
                return
            with torch.no_grad():
                error = float(self._clean(held()).square().mean().sqrt())
            self.monitor.held.append(error * self.scale)
            if error < best["error"]:
                best.update(error=error, state=copy.deepcopy(self.model.state_dict()))

        (self._adam if self.optimizer == "adam" else self._pals)(residual, look)
        if best["state"] is not None:
            self.model.load_state_dict(best["state"])
        self.held_error = float(best["error"] * self.scale) if np.isfinite(best["error"]) else self.monitor.train[-1]

    def _adam(self, residual: Callable[[bool], Tensor], look: Callable[[int, float], None]) -> None:
        optimiser = torch.optim.Adam(self.model.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        cells = residual(True).numel()

        def heard(step: int, loss: float) -> None:
            if step % self.evaluate_every == 0 or step == self.steps:
                look(step, loss / cells**0.5)

        history = training.fit(
            self.model,
            [None],
            lambda model, _: self._clean(residual(False)).norm(),
            optimiser,
            steps=self.steps,
            schedule="cosine",
            callback=heard,
        )
        self._warn(history)

    @staticmethod
    def _warn(history: training.History) -> None:
        if history.diverged:
            logger.warning("training diverged after %d steps; a smaller lr or omega0 helps", history.steps)

    def _pals(self, residual: Callable[[bool], Tensor], look: Callable[[int, float], None]) -> None:
        nets = [list(net.parameters()) for net in self.model.nets]
        inside = {id(p) for block in nets for p in block}
        rest = [p for p in self.model.parameters() if id(p) not in inside]
        blocks = [*nets, *([rest] if rest else [])]
        optimisers = [torch.optim.Adam(block, lr=self.lr, fused=True) for block in blocks]

        def objective() -> Tensor:
            return 0.5 * self._clean(residual(True)).square().mean()

        with torch.no_grad():
            current = float(objective())
        self.monitor.objective.append(current)
        for sweep in range(1, max(1, self.steps // (self.inner_steps * len(blocks))) + 1):
            moved = 0.0
            for block, optimiser in zip(blocks, optimisers, strict=True):
                current, delta = self._block(block, optimiser, objective, current)
                moved += delta
            gradient = torch.autograd.grad(objective(), [p for block in blocks for p in block])
            self.monitor.objective.append(current)
            self.monitor.moved.append(moved)
            self.monitor.stationarity.append(float(sum(g.square().sum() for g in gradient) ** 0.5))
            look(sweep, (2 * current) ** 0.5)

    def _block(self, block, optimiser, objective, current: float) -> tuple[float, float]:
        """K Adam steps on one network with the proximal term; without descent, shorter steps and at last none."""
        old = [p.detach().clone() for p in block]
        for _ in range(self.inner_steps):
            optimiser.zero_grad(set_to_none=True)
            loss = objective() + 0.5 * self.rho * sum((p - o).square().sum() for p, o in zip(block, old, strict=True))
            loss.backward(inputs=block)
            optimiser.step()
        change = [p.detach() - o for p, o in zip(block, old, strict=True)]
        for share in (1.0, 0.5, 0.1, 0.01, 0.0):
            with torch.no_grad():
                for p, o, c in zip(block, old, change, strict=True):
                    p.copy_(o + share * c)
                value = float(objective())
            delta = float(sum((p.detach() - o).square().sum() for p, o in zip(block, old, strict=True)))
            if share == 0.0:
                return current, 0.0
            if current - value >= 0.5 * self.rho * delta:
                return value, delta
        raise AssertionError("unreachable")


def inpaint(X: Float[np.ndarray, "..."], mask: Bool[np.ndarray, "..."], ranks: Sequence[int], **options) -> np.ndarray:
    """The whole tensor from its observed cells; options of :class:`IMTD`."""
    return IMTD(ranks, **options).fit(X, mask).full()


def denoise(X: Float[np.ndarray, "..."], ranks: Sequence[int], sparse: float | None = None, **options) -> np.ndarray:
    """The tensor without its noise, and with ``sparse`` without outliers beyond that many deviations of the data."""
    return IMTD(ranks, sparse=sparse, **options).fit(X).full()
