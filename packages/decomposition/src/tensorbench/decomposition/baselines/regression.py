"""Regression of numbers on images by well-kept libraries, behind one interface: ``fit(X, y)``, ``predict(X)``.

X is (N, C, H, W). CP and Tucker regression are TensorLy's; ridge regression and a Gaussian process with an RBF kernel
on the flattened pixels scikit-learn's; a Gaussian process whose hyperparameters are learned by gradients GPyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


class _Pixels:
    """Flattens the images and takes out the targets' mean."""

    has_variance = False

    def fit(self, X: Float[np.ndarray, "n c H W"], y: Float[np.ndarray, " n"]):
        self.offset = float(np.mean(y))
        self._fit(X.reshape(len(X), -1), y - self.offset)
        return self

    def predict(self, X: Float[np.ndarray, "n c H W"], return_std: bool = False):
        """The mean; with ``return_std``, where the method has one, also the standard deviation of new observations."""
        mean, std = self._predict(X.reshape(len(X), -1))
        return (self.offset + mean, std) if return_std else self.offset + mean


class CPRegression:
    """TensorLy's ridge-penalised regression with CP weights; the defaults are those of the Tensor-GPST paper's code."""

    has_variance = False

    def __init__(self, rank: int = 9, reg: float = 30.0, iterations: int = 100, seed: int = 0):
        from tensorly.regression.cp_regression import CPRegressor

        self.model = CPRegressor(
            weight_rank=rank, reg_W=reg, n_iter_max=iterations, random_state=_legacy(seed), verbose=0
        )

    def fit(self, X: Float[np.ndarray, "n c H W"], y: Float[np.ndarray, " n"]):
        self.model.fit(X, y)
        return self

    def predict(self, X: Float[np.ndarray, "n c H W"]) -> Float[np.ndarray, " n"]:
        return np.asarray(self.model.predict(X))


class TuckerRegression(CPRegression):
    """TensorLy's ridge-penalised regression with Tucker weights; ``ranks`` are along channels, height and width."""

    def __init__(self, ranks: Sequence[int] | int = (3, 3, 3), reg: float = 30.0, iterations: int = 100, seed: int = 0):
        from tensorly.regression.tucker_regression import TuckerRegressor

        ranks = [3, ranks, ranks] if isinstance(ranks, int) else list(ranks)
        self.model = TuckerRegressor(
            weight_ranks=ranks, reg_W=reg, n_iter_max=iterations, random_state=_legacy(seed), verbose=0
        )


def _legacy(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)


class Ridge(_Pixels):
    """scikit-learn's ridge regression on the pixels."""

    def __init__(self, alpha: float = 1.0):
        from sklearn.linear_model import Ridge as Model

        self.model = Model(alpha=alpha)

    def _fit(self, pixels: np.ndarray, y: np.ndarray) -> None:
        self.model.fit(pixels, y)

    def _predict(self, pixels: np.ndarray):
        return self.model.predict(pixels), None


class GPRBF(_Pixels):
    """scikit-learn's exact Gaussian process with a given RBF kernel; ``noise`` is a share of the targets' variance."""

    has_variance = True

    def __init__(self, length_scale: float = 30.0, noise: float = 0.1):
        self.length_scale, self.noise = length_scale, noise

    def _fit(self, pixels: np.ndarray, y: np.ndarray) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel

        variance = float(np.var(y))
        kernel = ConstantKernel(variance, "fixed") * RBF(self.length_scale, "fixed")
        self.extra = self.noise * variance
        self.model = GaussianProcessRegressor(kernel, alpha=self.extra, optimizer=None).fit(pixels, y)

    def _predict(self, pixels: np.ndarray):
        mean, std = self.model.predict(pixels, return_std=True)
        return mean, np.sqrt(std**2 + self.extra)


class GPyTorchGP(_Pixels):
    """GPyTorch's exact Gaussian process: RBF kernel, hyperparameters by Adam on the marginal likelihood."""

    has_variance = True

    def __init__(self, length_scale: float = 30.0, steps: int = 100, lr: float = 0.1):
        self.length_scale, self.steps, self.lr = length_scale, steps, lr

    def _fit(self, pixels: np.ndarray, y: np.ndarray) -> None:
        import gpytorch
        import torch

        self.scale = float(np.std(y))
        inputs, targets = torch.as_tensor(pixels), torch.as_tensor(y / self.scale)

        class Model(gpytorch.models.ExactGP):
            def __init__(self, likelihood):
                super().__init__(inputs, targets, likelihood)
                self.mean_module = gpytorch.means.ZeroMean()
                self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

            def forward(self, at):
                return gpytorch.distributions.MultivariateNormal(self.mean_module(at), self.covar_module(at))

        likelihood = gpytorch.likelihoods.GaussianLikelihood()
        self.model = Model(likelihood).double()
        self.model.covar_module.base_kernel.lengthscale = self.length_scale
        self.model.train()
        objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, self.model)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.lr)
        for _ in range(self.steps):
            optimizer.zero_grad()
            loss = -objective(self.model(inputs), targets)
            loss.backward()
            optimizer.step()
        self.model.eval()

    def _predict(self, pixels: np.ndarray):
        import torch

        with torch.no_grad():
            found = self.model.likelihood(self.model(torch.as_tensor(pixels)))
            return self.scale * found.mean.numpy(), self.scale * found.stddev.numpy()
