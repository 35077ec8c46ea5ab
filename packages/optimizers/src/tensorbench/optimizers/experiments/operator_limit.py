"""Limits of infinite width against networks of finite width: the operator limit (NTP) and the maximal update limit.

The steps of ``mup_error...`` are widths; those of ``change_finite``, ``change_operator`` and ``change_linear`` are the
points (images).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.data.shared import LabelledImages
from tensorbench.core.run import Run
from tensorbench.optimizers.tasks.images import prepare
from tensorbench.optimizers.tensor_programs import abcd, updates
from tensorbench.optimizers.tensor_programs import limits as lim

RULES: dict[str, updates.EntrywiseUpdate] = {"sign": updates.Sign(), "adam": updates.Adam(eps=0.0)}


def problem_of(data: LabelledImages, train: int, test: int) -> lim.Problem:
    """Even digits are +1, odd ones -1."""
    images, labels = prepare(data, dtype=torch.float64).train
    x = images.flatten(1)
    y = 1.0 - 2.0 * (labels[:, None] % 2).double()
    return lim.Problem(x[:train], y[:train], x[train : train + test])


def limits(
    run: Run,
    *,
    rule: str,
    train: int = 8,
    test: int = 24,
    steps: int = 3,
    lr: float = 0.01,
    samples: int = 100_000,
    copies: int = 500,
    widths: tuple[int, ...] = (64, 128, 256, 512),
    nets: int = 64,
    operator_width: int = 4096,
) -> None:
    """Both limits and the networks that they are of."""
    problem, q = problem_of(run.dataset.load(run.seed), train, test), RULES[rule]
    arch = lim.Arch(problem.x.shape[1], 2, 1)
    options = {"samples": samples, "copies": copies}
    with run.time("operator"):
        operator(run, arch, problem, q, steps=steps, lr=lr, width=operator_width, options=options)
    with run.time("limit"):
        limit = lim.limit_mup_adam(arch, problem, q, lr=lr, steps=steps, generator=run.generator, **options)  # type: ignore[arg-type]
    run.log(limit_change=(limit[-1] - limit[0]).square().mean().sqrt())
    generator = torch.Generator().manual_seed(1000 + run.seed)
    for width in widths:
        found = torch.stack(
            [
                lim.finite_run(arch, problem, q, abcd.mup_adam(3), width=width, lr=lr, steps=steps, generator=generator)
                for _ in range(nets)
            ]
        )
        errors = (found - limit).square().mean((0, 2, 3)).sqrt()
        run.log(step=width, **{f"mup_error_{k}": errors[k] for k in range(1, steps + 1)})
        run.log(step=width, mup_error=errors[1:].square().mean().sqrt())


def operator(
    run: Run, arch: lim.Arch, problem: lim.Problem, rule: updates.EntrywiseUpdate, *, steps: int, lr: float, width: int,
    options: dict[str, int],
) -> None:  # fmt: skip
    """A wide network in NTP against the operator limit from its own start, and against the tangent kernel."""
    finite = lim.finite_run(
        arch, problem, rule, abcd.ntp_adam(3), width=width, lr=lr, steps=steps, generator=run.generator
    ).double()
    generator = torch.Generator().manual_seed(2000 + run.seed)
    kernel = lim.OperatorKernel(arch, problem.points, len(problem.x), generator=generator, **options)  # type: ignore[arg-type]
    found = lim.limit_operator(
        arch, problem, rule, lr=lr, steps=steps, f0=finite[0], kernel=kernel, generator=generator
    )
    change, last = finite[1] - finite[0], finite[-1] - finite[0]
    expected = found[1] - found[0]
    linear = kernel([problem.errors(finite[0])], updates.Identity())
    linear = linear * (linear * change).sum() / linear.square().sum()
    run.log(
        operator_error=(change - expected).norm() / change.norm(),
        linear_error=(change - linear).norm() / change.norm(),
        operator_error_last=(last - (found[-1] - found[0])).norm() / last.norm(),
    )
    for k, values in enumerate(zip(change, expected, linear, strict=True)):
        run.log(step=k, **dict(zip(("change_finite", "change_operator", "change_linear"), values, strict=True)))


METHODS = {"limits": limits}


def run(run: Run) -> None:
    """Interpret, train, compare."""
    METHODS[run.method.uses](run, **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Changes against predictions, and the approach to the limit."""
    yield "prediction", _prediction(records)
    yield "approach", _approach(records)


def _prediction(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(height=7.5)
    first = records[(records["method"] == "sign") & (records["seed"] == 0)] if len(records) else records
    if not len(first):
        plotting.empty(ax)
        return fig
    finite, operator_limit, linear = (
        rec.history(first, f"change_{name}").sort_values("step")["value"].to_numpy()
        for name in ("finite", "operator", "linear")
    )
    ends = np.array([finite.min(), finite.max()]) * 1.08
    ax.plot(ends, ends, color="#888888", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    looks = plotting.styles(["operator limit", "tangent kernel"])
    for name, values in (("operator limit", operator_limit), ("tangent kernel", linear)):
        ax.plot(values, finite, linestyle="none", marker=looks[name]["marker"], color=looks[name]["color"], label=name)
    ax.set(xlabel="predicted change of f", ylabel="change of f at finite width")
    plotting.legend(ax, loc="upper left")
    return fig


def _approach(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.6, sharey=True)
    for ax, name, title in zip(axes, ("sign", "adam"), ("sign", "Adam"), strict=True):
        ax.set_title(title)
        part = records[records["method"] == name] if len(records) else records
        if not len(part):
            plotting.empty(ax)
            continue
        frames = [rec.history(part, f"mup_error_{k}").assign(after=f"step {k}") for k in (1, 2, 3)]
        frame = pd.concat(frames)
        plotting.log_axis(ax, "y")
        plotting.log_axis(ax, "x", ticks=sorted(frame["step"].unique()))
        plotting.series(ax, frame, "step", "value", by="after")
        start = frame["step"].min()
        plotting.guide(ax, -0.5, through=(start, float(frame.loc[frame["step"] == start, "value"].mean())))
        ax.set(xlabel="width n", ylabel="distance from the limit" if name == "sign" else "")
    plotting.legend(fig)
    return fig
