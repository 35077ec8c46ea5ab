"""Baselines for completing scattered data, all with one interface: ``fit(idx, y)`` and ``predict(idx)``.

``idx`` is (N, K) real-valued, ``y`` (N,). Masked CP and Tucker (TensorLy) see the data on a regular grid, gradient
boosting (scikit-learn) and a sparse variational Gaussian process (GPyTorch) see the raw indices, and ``LastIndexMean``
is the predictor that ignores all modes but the last. ``predict(idx, return_std=True)`` adds a standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tensorbench.decomposition.functional.scaling import check_indices, check_values

MAX_CELLS = 20_000_000


class Baseline:
    """Checks and the common ``fit`` / ``predict``.

    Where a method has no predictive distribution (``has_variance`` is false), its standard deviation is one number,
    ``std``: the root mean square of the training residuals, unless the caller sets it to a better (held-out) estimate.
    """

    has_variance = False

    def fit(self, idx: Float[np.ndarray, "n k"], y: Float[np.ndarray, " n"]) -> Baseline:
        idx = check_indices(idx)
        y = check_values(y, len(idx))
        self.modes = idx.shape[1]
        self._fit(idx, y)
        self.std = float(np.sqrt(np.mean((y - self._mean(idx)) ** 2)))
        return self

    def predict(self, idx: Float[np.ndarray, "n k"], return_std: bool = False):
        if not hasattr(self, "modes"):
            raise ValueError("call fit before predict")
        idx = check_indices(idx, self.modes)
        mean = self._mean(idx)
        return (mean, self._std(idx)) if return_std else mean

    @property
    def parameters(self) -> int:
        """How many numbers were fitted."""
        raise NotImplementedError

    def _fit(self, idx: np.ndarray, y: np.ndarray) -> None:
        raise NotImplementedError

    def _mean(self, idx: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _std(self, idx: np.ndarray) -> np.ndarray:
        return np.full(len(idx), self.std)


class LastIndexMean(Baseline):
    """The mean of y at the same last index (per time, in most data); the nearest one where it was never seen."""

    def _fit(self, idx: np.ndarray, y: np.ndarray) -> None:
        self.t, group = np.unique(idx[:, -1], return_inverse=True)
        self.means = np.bincount(group.reshape(-1), weights=y) / np.bincount(group.reshape(-1))

    def _mean(self, idx: np.ndarray) -> np.ndarray:
        after = np.clip(np.searchsorted(self.t, idx[:, -1]), 1, len(self.t) - 1) if len(self.t) > 1 else 0
        before = np.maximum(after - 1, 0)
        closer = np.abs(idx[:, -1] - self.t[before]) <= np.abs(self.t[after] - idx[:, -1])
        return self.means[np.where(closer, before, after)]

    @property
    def parameters(self) -> int:
        return len(self.t)


class Grid:
    """Equal bins over the extent of every mode: at most ``bins``, and no more than a mode's own ``shape``."""

    def __init__(self, low: Sequence[float], high: Sequence[float], shape: Sequence[int]):
        self.low, self.high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        self.shape = tuple(int(n) for n in shape)
        if any(n < 1 for n in self.shape) or np.any(self.high <= self.low):
            raise ValueError(f"a grid needs bins >= 1 and low < high in every mode, got {self.shape}")
        if np.prod(self.shape, dtype=float) > MAX_CELLS:
            raise ValueError(f"a grid of {self.shape} has more than {MAX_CELLS} cells to hold densely; use fewer bins")

    def cells(self, idx: Float[np.ndarray, "n k"]) -> Int[np.ndarray, "n k"]:
        """The cell of every entry; beyond the extent, the nearest one."""
        place = (idx - self.low) / (self.high - self.low) * self.shape
        return np.clip(np.floor(place).astype(int), 0, np.array(self.shape) - 1)

    def means(self, idx: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Dense mean of the entries in every cell (0 where none), and the mask of cells with entries."""
        flat = np.ravel_multi_index(tuple(self.cells(idx).T), self.shape)
        counts = np.bincount(flat, minlength=int(np.prod(self.shape)))
        sums = np.bincount(flat, weights=y, minlength=len(counts))
        mask = counts > 0
        return (sums / np.maximum(counts, 1)).reshape(self.shape), mask.reshape(self.shape)


class _GridModel(Baseline):
    """A low-rank model of the cell means, on ``bins`` bins per mode and ``last_bins`` in the last one (time, mostly).

    ``extent`` is (low, high) per mode, by default that of the training data; ``shape`` caps the bins per mode where the
    data are binned already. ``center`` subtracts the mean of y first.
    """

    def __init__(
        self,
        rank: int = 3,
        bins: int = 50,
        last_bins: int | None = None,
        *,
        iterations: int = 50,
        center: bool = True,
        shape: Sequence[int] | None = None,
        extent: Sequence[tuple[float, float]] | None = None,
        seed: int = 0,
    ):
        if rank < 1 or bins < 1 or iterations < 1:
            raise ValueError(f"rank {rank}, bins {bins} and iterations {iterations} must be at least 1")
        self.rank, self.bins, self.last_bins, self.iterations, self.center = rank, bins, last_bins, iterations, center
        self.shape, self.extent, self.seed = shape, extent, seed

    def _fit(self, idx: np.ndarray, y: np.ndarray) -> None:
        extent = self.extent or list(zip(idx.min(0), idx.max(0), strict=True))
        wanted = [self.bins] * (self.modes - 1) + [self.last_bins or self.bins]
        shape = [min(pair) for pair in zip(wanted, self.shape or wanted, strict=True)]
        self.grid = Grid(*zip(*extent, strict=True), shape)
        self.offset = float(y.mean()) if self.center else 0.0
        self._decompose(*self.grid.means(idx, y - self.offset))

    def _decompose(self, tensor: np.ndarray, mask: np.ndarray) -> None:
        raise NotImplementedError


class MaskedCP(_GridModel):
    """``tensorly.decomposition.parafac`` with a mask: ALS with the missing cells filled in from the last iterate."""

    def _decompose(self, tensor: np.ndarray, mask: np.ndarray) -> None:
        from tensorly.decomposition import parafac

        self.weights, self.factors = parafac(
            tensor, self.rank, mask=mask.astype(float), n_iter_max=self.iterations, init="random", tol=0,
            random_state=self.seed,
        )  # fmt: skip

    def _mean(self, idx: np.ndarray) -> np.ndarray:
        rows = [f[i] for f, i in zip(self.factors, self.grid.cells(idx).T, strict=True)]
        return self.offset + np.prod(rows, axis=0) @ self.weights

    @property
    def parameters(self) -> int:
        return sum(f.size for f in self.factors)


class MaskedTucker(_GridModel):
    """``tensorly.decomposition.tucker`` with a mask, the same rank in every mode (capped by the mode's bins)."""

    def _decompose(self, tensor: np.ndarray, mask: np.ndarray) -> None:
        from tensorly.decomposition import tucker

        ranks = [min(self.rank, n) for n in tensor.shape]
        self.core, self.factors = tucker(
            tensor, ranks, mask=mask.astype(float), n_iter_max=self.iterations, init="random", tol=0,
            random_state=self.seed,
        )  # fmt: skip

    def _mean(self, idx: np.ndarray) -> np.ndarray:
        out = np.broadcast_to(self.core.reshape(-1), (len(idx), self.core.size))
        for factor, cell in zip(self.factors, self.grid.cells(idx).T, strict=True):
            out = np.einsum("nr,nrq->nq", factor[cell], out.reshape(len(idx), factor.shape[1], -1))
        return self.offset + out[:, 0]

    @property
    def parameters(self) -> int:
        return self.core.size + sum(f.size for f in self.factors)


class GradientBoosting(Baseline):
    """``sklearn.ensemble.HistGradientBoostingRegressor`` on the raw indices."""

    def __init__(
        self, learning_rate: float = 0.1, trees: int = 200, leaves: int = 31, min_leaf: int = 20, seed: int = 0
    ):
        self.settings = {
            "learning_rate": learning_rate, "max_iter": trees, "max_leaf_nodes": leaves, "min_samples_leaf": min_leaf,
            "early_stopping": False, "random_state": seed,
        }  # fmt: skip

    def _fit(self, idx: np.ndarray, y: np.ndarray) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        self.model = HistGradientBoostingRegressor(**self.settings).fit(idx, y)

    def _mean(self, idx: np.ndarray) -> np.ndarray:
        return self.model.predict(idx)

    @property
    def parameters(self) -> int:
        return int(sum(tree.get_n_leaf_nodes() for stage in self.model._predictors for tree in stage))


class SparseGP(Baseline):
    """A sparse variational Gaussian process on the raw indices (GPyTorch): Matérn kernel with a lengthscale per mode.

    Inducing points start at a random subset of the entries and lengthscales at ``lengthscale`` of each mode's range;
    minibatch Adam maximises the evidence lower bound.
    """

    has_variance = True

    def __init__(
        self,
        inducing: int = 128,
        steps: int = 200,
        batch: int = 512,
        lr: float = 0.05,
        nu: float = 1.5,
        lengthscale: float = 0.2,
        seed: int = 0,
    ):
        self.inducing, self.steps, self.batch, self.lr = inducing, steps, batch, lr
        self.nu, self.lengthscale, self.seed = nu, lengthscale, seed

    def _fit(self, idx: np.ndarray, y: np.ndarray) -> None:
        try:
            import gpytorch
        except ImportError as error:
            raise ImportError(
                "the Gaussian process baseline needs gpytorch: pip install 'tensorbench-decomposition[bench]'"
            ) from error
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        self.center, self.scale = float(y.mean()), float(y.std()) or 1.0
        self.low, self.span = idx.min(0), np.maximum(np.ptp(idx, axis=0), 1e-12)
        x, target = self._inputs(idx), torch.tensor((y - self.center) / self.scale)
        points = x[torch.randperm(len(x), generator=generator)[: self.inducing]]

        class SVGP(gpytorch.models.ApproximateGP):
            def __init__(self, nu: float, lengthscale: float):
                posterior = gpytorch.variational.CholeskyVariationalDistribution(len(points), mean_init_std=0.0)
                super().__init__(gpytorch.variational.VariationalStrategy(self, points.clone(), posterior))
                self.mean_module = gpytorch.means.ConstantMean()
                kernel = gpytorch.kernels.MaternKernel(nu=nu, ard_num_dims=points.shape[1])
                kernel.lengthscale = lengthscale
                self.covar_module = gpytorch.kernels.ScaleKernel(kernel)

            def forward(self, inputs):
                return gpytorch.distributions.MultivariateNormal(self.mean_module(inputs), self.covar_module(inputs))

        self.model = SVGP(self.nu, self.lengthscale).double()
        self.likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
        self.likelihood.noise = 0.1
        bound = gpytorch.mlls.VariationalELBO(self.likelihood, self.model, num_data=len(x))
        optimiser = torch.optim.Adam([*self.model.parameters(), *self.likelihood.parameters()], lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        self.model.train()
        for _ in range(self.steps):
            pick = torch.randint(len(x), (min(self.batch, len(x)),), generator=generator)
            optimiser.zero_grad()
            loss = -bound(self.model(x[pick]), target[pick])
            loss.backward()
            optimiser.step()
            schedule.step()
        self.model.eval()

    def _inputs(self, idx: np.ndarray):
        import torch

        return torch.tensor((idx - self.low) / self.span)

    def _moments(self, idx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        means, variances = [], []
        with torch.no_grad():
            for part in torch.split(self._inputs(idx), 2048):
                posterior = self.model(part)
                means.append(posterior.mean)
                variances.append(posterior.variance)
            noise = float(self.likelihood.noise)
        return torch.cat(means).numpy(), torch.cat(variances).numpy() + noise

    def _mean(self, idx: np.ndarray) -> np.ndarray:
        return self.center + self.scale * self._moments(idx)[0]

    def _std(self, idx: np.ndarray) -> np.ndarray:
        return self.scale * np.sqrt(self._moments(idx)[1])

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in [*self.model.parameters(), *self.likelihood.parameters()])
