"""Weight gradients from four-bit operands, and the derivative of the quantiser.

``wgrad_error`` is of one product of both quantised operands against the exact one, relative in the Frobenius norm.
``mean_error`` at step n is of the mean of n products, dy quantised anew for each, against the exact product of dy
with the same quantised x: what is left is the bias of rounding dy. It has steps up to 64, ``mean_error_far`` all of
them.

``proposition`` compares the closed form of the Jacobian with forward-mode differentiation for several relaxations;
``scale_share`` is how much of the Frobenius norm of the Jacobian (sigmoid, straight through the scale) the scale's
column makes up.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.quantization.blocks import BlockSpec, fake_quantize
from tensorbench.quantization.fp4.block_gradient import full_jacobian_check, proposition_1
from tensorbench.quantization.fp4.hadamard import Hadamard
from tensorbench.quantization.fp4.relaxations import relaxation

COUNTS = tuple(2**k for k in range(11))
CLAIMED = 64  # largest n of the claims
EXACT = 1e-8


def wgrad(
    run: Run,
    x: Tensor,
    dy: Tensor,
    *,
    stochastic: bool = False,
    random_bits: int | None = None,
    scale_mode: str = "nearest",
    size: int | None = None,
    draws: int = 64,
) -> None:
    """One way to quantise both operands; ``draws`` gradients are averaged where rounding is stochastic."""
    generator = run.generator
    plain = BlockSpec("e2m1", scale="e4m3", block=16, scale_mode=scale_mode, tensor_scale="absmax")  # type: ignore[arg-type]
    rounded = BlockSpec(
        "e2m1", scale="e4m3", block=16, scale_mode=scale_mode, tensor_scale="absmax",  # type: ignore[arg-type]
        rounding="stochastic" if stochastic else "even", random_bits=random_bits, midpoint=random_bits is not None,
    )  # fmt: skip
    if size is not None:
        transform = Hadamard(size, run.seed)
        x, dy = transform(x, 0), transform(dy, 0)
    xq = fake_quantize(x, plain, 0)
    exact, target = dy.T @ x, dy.T @ xq
    total = torch.zeros_like(target, dtype=torch.float64)
    for n in range(1, draws + 1):
        product = fake_quantize(dy, rounded, 0, generator=generator).T @ xq
        if n == 1:
            run.log(wgrad_error=_relative(product, exact))
        total += product if stochastic else draws * product
        if not stochastic:
            error = _relative(product, target)
            for count in COUNTS:
                run.log(step=count, mean_error_far=error, **({"mean_error": error} if count <= CLAIMED else {}))
            run.log(error_64=error)
            return
        if n in COUNTS:
            error = _relative(total / n, target)
            run.log(step=n, mean_error_far=error, **({"mean_error": error} if n <= CLAIMED else {}))
            if n == CLAIMED:
                run.log(error_64=error)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def proposition(run: Run, x: Tensor, dy: Tensor) -> None:
    """Closed form against forward mode, on blocks of 16 of x: three relaxations of Q, two of q, both stored forms."""
    blocks = x.T[:, :16].to(torch.float64)
    smooth = relaxation("tanh", "e4m3", sharpness=4.0)
    worst = 0.0
    for element in (relaxation("tanh"), relaxation("sigmoid"), relaxation("dge", clip=1e6)):
        for scale in (smooth, relaxation("sigmoid", "e4m3")):
            for stored in ("factor", "inverse"):
                for block in blocks[:8]:
                    worst = max(worst, full_jacobian_check(block, element, scale, stored=stored))  # type: ignore[arg-type]
    ste = relaxation("ste")
    jacobian = proposition_1(blocks, relaxation("sigmoid"), ste, stored="inverse")
    column = jacobian - torch.diag_embed(
        relaxation("sigmoid").slope(blocks / (blocks.abs().amax(-1, keepdim=True) / 6))
    )
    run.log(
        jacobian_error=worst,
        jacobian_exact=worst <= EXACT,
        scale_share=float((column.norm(dim=(-1, -2)) / jacobian.norm(dim=(-1, -2))).mean()),
    )


METHODS = {"wgrad": wgrad, "proposition": proposition}


def run(run: Run) -> None:
    """Load the operands and do what the method says."""
    x, dy = (torch.from_numpy(array) for array in run.dataset.load(run.seed))
    METHODS[run.method.uses](run, x, dy, **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Bias against draws, errors with and without the transform, and the relaxations."""
    fig, ax = plotting.figure(height=7)
    long = rec.history(records, "mean_error_far") if len(records) else pd.DataFrame()
    long = long[long["dataset"] == "gaussian"] if len(long) else long
    order = [
        name
        for name in ("nearest", "stochastic", "stochastic_8bit", "stochastic_up")
        if len(long) and name in set(long["method"])
    ]
    if not order:
        plotting.empty(ax)
    else:
        long = long[long["method"].isin(order)]
        plotting.series(ax, long, "step", "value", log="xy", order=order)
        start = long[(long["method"] == "stochastic") & (long["step"] == 1)]["value"]
        if len(start):
            plotting.guide(ax, -0.5, through=(1, float(start.mean())))
        ax.set(xlabel="weight gradients in the mean, n", ylabel="relative error")
        plotting.legend(fig)
    yield "unbiased", fig

    fig, ax = plotting.figure(height=6.5)
    shown = records[records["method"].isin(["nearest", "hadamard", "hadamard_128"])] if len(records) else records
    if len(shown):
        plotting.bars(ax, shown, "wgrad_error")
        ax.set_ylabel("relative error")
        plotting.legend(fig)
    else:
        plotting.empty(ax)
    yield "hadamard", fig
    yield "relaxations", _relaxations()


def _relaxations() -> Figure:
    fig, axes = plotting.figure(columns=2, rows=2, cols=4, height=8.5, sharex=True, sharey="row")
    x = torch.linspace(-0.4, 6.9, 1500, dtype=torch.float64)
    options = {"clipped_ste": {}, "dge": {}, "spline": {}, "sigmoid": {}}
    titles = {
        "clipped_ste": "clipped straight-through",
        "dge": "DGE (k = 5, clip 3)",
        "spline": "linear spline",
        "sigmoid": "sigmoid",
    }
    staircase = BlockSpec("e2m1").element_format.round(x)
    for column, (name, given) in enumerate(options.items()):
        what = relaxation(name, **given)
        above, below = axes[0, column], axes[1, column]
        above.plot(x, staircase, color="#999999", linewidth=0.8, label="rounding")
        above.plot(x, what.value(x), color="#0072B2", label="relaxation")
        below.plot(x, what.slope(x), color="#D55E00", label="derivative")
        above.set_title(titles[name])
        below.set_xlabel("x")
        below.set_xticks(np.arange(0, 7, 2))
    axes[0, 0].set_ylabel("Q(x)")
    axes[1, 0].set_ylabel("Q′(x)")
    plotting.legend(fig)
    return fig
