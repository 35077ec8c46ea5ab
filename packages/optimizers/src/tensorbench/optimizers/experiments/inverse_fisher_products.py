"""Accuracy and time of products with the inverse of the damped Fisher matrix.

Accuracy: against the dense inverse in double precision, on random gradients and on those of single digits for a small
perceptron. Time: how a product grows with d and m and the static set-up with m; a product over two passes over the
gradients (GEMVs); the dynamic algorithm against the same arithmetic written as the authors' CPU path is, one row of
the triangular factors after another in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.optimizers.m_fac import DynamicMFAC, StaticMFAC
from tensorbench.optimizers.m_fac.gradients import collect
from tensorbench.optimizers.tasks import images


class RowByRow:
    """The paper's D and B in float32, with loops over m; D from Cholesky, as torch's LU pivots on the CPU."""

    def __init__(self, grads: Tensor, damp: float) -> None:
        self.grads, self.damp, self.m = grads, damp, len(grads)
        self.dots = grads @ grads.T
        self.next = 0
        self.factor()

    def factor(self) -> None:
        m = self.m
        small = self.dots.double() / self.damp + m * torch.eye(m, dtype=torch.float64)
        root = torch.linalg.cholesky(small)
        scale = root.diagonal()
        self.upper = (scale[:, None] * root.T).to(self.grads.dtype)
        self.denominators = scale.square().to(self.grads.dtype)
        coefficients = -(self.upper.T / self.denominators)
        self.b = torch.eye(m, dtype=self.grads.dtype) / self.damp
        for i in range(1, m):
            self.b[i, :i] = coefficients[i, :i] @ self.b[:i, :i]

    def update_mul(self, g: Tensor) -> Tensor:
        self.grads[self.next] = g
        products = self.grads @ g
        self.dots[self.next], self.dots[:, self.next] = products, products
        self.factor()
        self.next = (self.next + 1) % self.m
        c = products / self.damp
        for i in range(self.m - 1):
            c[i + 1 :] -= self.upper[i, i + 1 :] * (c[i] / self.denominators[i])
        return g / self.damp - (c / self.denominators) @ self.b @ self.grads


METHODS = {"m_fac": StaticMFAC}


def _error(grads: Tensor, damp: float, x: Tensor) -> dict[str, float]:
    fisher = grads.double().T @ grads.double() / len(grads)
    fisher.diagonal().add_(damp)
    exact = torch.linalg.solve(fisher, x.double())
    found = {}
    for name, dtype in (("double", torch.float64), ("single", torch.float32)):
        g, y = grads.to(dtype), x.to(dtype)
        window = DynamicMFAC(len(g), g.shape[1], damp, dtype)
        for row in g:
            window.update(row)
        products = {"static": StaticMFAC(g, damp).mul(y), "dynamic": window.mul(y)}
        for kind, product in products.items():
            found[f"{kind}_{name}"] = float((product.double() - exact).norm() / exact.norm())
    return found


def _filled(m: int, d: int, g: torch.Generator, damp: float, period: int = 4096) -> DynamicMFAC:
    """A full window of gradients that repeat after ``period`` weights: soon drawn and multiplied with each other."""
    window = DynamicMFAC(m, d, damp)
    block = torch.randn(m, min(d, period), generator=g)
    for part in window.grads.split(period, dim=1):
        part.copy_(block[:, : part.shape[1]])
    whole, rest = divmod(d, block.shape[1])
    window.dots = (whole * (block @ block.T) + block[:, :rest] @ block[:, :rest].T).double()
    window.count = m
    return window


def run(run: Run) -> None:
    """Errors, growth and ratios."""
    options = run.method.params
    damp, repeats = options["damp"], options["repeats"]
    source = run.dataset.load(run.seed)
    data = images.prepare(source)
    g = torch.Generator().manual_seed(run.seed)
    network = images.perceptron(g, (64, 16, 10))
    real = collect(network, images.loss, data.train, options["m"], g)
    drawn = torch.randn(options["m"], 400, generator=g)
    errors = [_error(grads, damp, torch.randn(grads.shape[1], generator=g)) for grads in (real, drawn)]
    worst = {key: max(e[key] for e in errors) for key in errors[0]}
    run.log(error_double=max(worst["static_double"], worst["dynamic_double"]),
            error_single=max(worst["static_single"], worst["dynamic_single"]), **worst)  # fmt: skip

    def grow(metric: str, sizes: list[int], make: Callable[[int], Callable[[], object]]) -> None:
        seconds = compare({str(n): make(n) for n in sizes}, repeats=repeats)
        for n in sizes:
            run.log(step=n, **{metric: seconds[str(n)]})

    def product(m: int, d: int) -> Callable[[], object]:
        window, x = _filled(m, d, g, damp), torch.randn(d, generator=g)
        return lambda: window.mul(x)

    grow("product_by_d", options["d_sizes"], lambda d: product(options["m"], d))
    grow("product_by_m", options["m_sizes"], lambda m: product(m, max(options["d_sizes"]) // 4))

    def setup(m: int) -> Callable[[], object]:
        grads = torch.randn(m, options["setup_d"], generator=g)
        return lambda: StaticMFAC(grads, damp)

    grow("setup_by_m", options["setup_sizes"], setup)

    d, m = options["large"]
    window, x, weights = _filled(m, d, g, damp), torch.randn(d, generator=g), torch.randn(m, generator=g)
    square = torch.randn(m, m, generator=g, dtype=torch.float64)
    found = compare(
        {"product": lambda: window.mul(x), "passes": lambda: (window.grads @ x, window.grads.T @ weights),
         "update_product": lambda: window.update_mul(x), "cube": lambda: square @ square},
        repeats=repeats, min_seconds=0,
    )  # fmt: skip
    run.log(
        product_over_passes=found.ratio("product", "passes").value,
        update_over_bound=found["update_product"] / (2 * found["passes"] + found["cube"]),
    )
    del window
    d, m = options["peer"]
    ours = _filled(m, d, g, damp)
    peer, x = RowByRow(ours.grads.clone(), damp), torch.randn(d, generator=g)
    rivals = {"ours": lambda: ours.update_mul(x), "peer": lambda: peer.update_mul(x)}
    run.log(speedup=compare(rivals, repeats=repeats, min_seconds=0).speedup("ours", "peer").value)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Growth of a product and of the static set-up."""
    fig, axes = plotting.figure(columns=2, cols=3, height=6.0)
    panels = [("product_by_d", "weights d", 1, "a product"), ("product_by_m", "gradients m", 1, "a product"),
              ("setup_by_m", "gradients m", 2, "static set-up")]  # fmt: skip
    for ax, (metric, words, slope, title) in zip(axes, panels, strict=True):
        ax.set_title(title, fontsize=8)
        frame = rec.history(records, metric) if len(records) else records
        if not len(frame):
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "xy")
        plotting.series(ax, frame, "step", "value")
        first = frame["step"].min()
        plotting.guide(ax, slope, through=(first, float(frame.loc[frame["step"] == first, "value"].mean())))
        ax.set(xlabel=words, ylabel="time (s)")
        plotting.legend(ax)
    yield "growth", fig
