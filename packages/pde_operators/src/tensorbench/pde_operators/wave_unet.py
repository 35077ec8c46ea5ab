"""A network that steps a wave forward, learnt from snapshots: training, rollouts, and what is measured of them.

After Boukraichi, Akkari, Casenave, Ryckelynck (2023, arXiv 2304.04964; only the abstract was at hand), who train
convolutional simulators on finite-element snapshots of the two-dimensional wave equation. The network sees the last
two snapshots and the speed of the medium and gives the next one,

    u_{t+1} = u_t + s N(u_{t-1} / s, u_t / s, (c - c̄) / σ_c),

with s the standard deviation of the training fields; the constants are buffers, so that a checkpoint has them. It is
trained on single steps, then on k steps fed with its own predictions (``unrolled``), on the relative L2 error.

>>> net = UNet(3, 1, width=8, generator=g)
>>> model = WaveSimulator.of(net, data.train_u, data.train_c)
>>> train(model, data.train_u, data.train_c, steps=300, generator=g)
>>> rollout(model, u[:, 0], u[:, 1], c, 40)  # (runs, 40, n, n)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.core.training import History, Log, fit

Base = Literal["last", "extrapolated", "none"]
_BASES = ("last", "extrapolated", "none")
_LARGE = 1e3  # a rollout that is this many times as large as its scale has blown up and is stopped there


class WaveSimulator(nn.Module):
    """One step of the wave by a network on (last, present, speed).

    Args:
        network: fields (batch, 3, n, n) to (batch, 1, n, n).
        scale: of u; ``speed_mean``, ``speed_std`` those of c. :meth:`of` takes them from data.
        base: what the network's output is added to: the ``last`` snapshot, the ``extrapolated`` one
            (2 u_t − u_{t−1}), or ``none``.
        walls: set the sides to 0, where the wave is held.

    Raises:
        ValueError: a scale that is not positive, an unknown base, and when called: fields that do not fit.
    """

    scale: Tensor
    speed_mean: Tensor
    speed_std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        scale: float = 1.0,
        speed_mean: float = 0.0,
        speed_std: float = 1.0,
        base: Base = "last",
        walls: bool = True,
    ) -> None:
        super().__init__()
        if not (scale > 0 and speed_std > 0):
            raise ValueError(f"scale {scale} and speed_std {speed_std} must be positive and finite")
        if base not in _BASES:
            raise ValueError(unknown("base", base, _BASES))
        self.network, self.base, self.walls = network, base, walls
        for name, value in (("scale", scale), ("speed_mean", speed_mean), ("speed_std", speed_std)):
            self.register_buffer(name, torch.tensor(float(value)))

    @classmethod
    def of(
        cls,
        network: nn.Module,
        u: Float[Tensor, "runs times n n"],
        c: Float[Tensor, "runs n n"],
        *,
        base: Base = "last",
        walls: bool = True,
    ) -> Self:
        """With the constants of training data."""
        _check(u, c)
        return cls(
            network, scale=float(u.std()), speed_mean=float(c.mean()), speed_std=max(float(c.std()), 1e-6),
            base=base, walls=walls,
        )  # fmt: skip

    def forward(
        self, last: Float[Tensor, "batch n n"], now: Float[Tensor, "batch n n"], c: Float[Tensor, "batch n n"]
    ) -> Float[Tensor, "batch n n"]:
        """The next snapshot."""
        if not (last.shape == now.shape == c.shape):
            raise ValueError(f"fields and speed differ in shape: {tuple(last.shape)}, {tuple(now.shape)}, {c.shape}")
        x = torch.stack([last / self.scale, now / self.scale, (c - self.speed_mean) / self.speed_std], dim=1)
        step = self.scale * self.network(x)[:, 0]
        if self.base == "last":
            step = now + step
        elif self.base == "extrapolated":
            step = 2 * now - last + step
        if self.walls:
            step = nn.functional.pad(step[:, 1:-1, 1:-1], (1, 1, 1, 1))
        return step


def rollout(
    model: WaveSimulator,
    last: Float[Tensor, "runs n n"],
    now: Float[Tensor, "runs n n"],
    c: Float[Tensor, "runs n n"],
    steps: int,
) -> Float[Tensor, "runs steps n n"]:
    """``steps`` predictions, each made from the two before it; values beyond 1000 scales are cut off there."""
    if steps < 1:
        raise ValueError(f"steps {steps} must be at least 1")
    predicted = []
    limit = _LARGE * float(model.scale)
    for _ in range(steps):
        last, now = now, model(last, now, c).clamp(-limit, limit)
        predicted.append(now)
    return torch.stack(predicted, dim=1)


def relative_error(
    predicted: Float[Tensor, "*batch n n"], true: Float[Tensor, "*batch n n"]
) -> Float[Tensor, "*batch"]:
    """‖predicted − true‖ / ‖true‖ of each field."""
    return torch.linalg.vector_norm(predicted - true, dim=(-2, -1)) / torch.linalg.vector_norm(true, dim=(-2, -1))


@torch.no_grad()
def one_step_error(
    model: WaveSimulator, u: Float[Tensor, "runs times n n"], c: Float[Tensor, "runs n n"], every: int = 1
) -> float:
    """Relative L2 error of the next snapshot from two true ones, averaged over runs and times (each ``every``-th)."""
    _check(u, c)
    errors = []
    for fields, speed in zip(u, c, strict=True):
        last, now, true = fields[:-2:every], fields[1:-1:every], fields[2::every]
        errors.append(relative_error(model(last, now, speed.expand_as(now)), true))
    return float(torch.stack(errors).mean())


@torch.no_grad()
def rollout_errors(
    model: WaveSimulator, u: Float[Tensor, "runs times n n"], c: Float[Tensor, "runs n n"]
) -> tuple[Float[Tensor, "steps"], Float[Tensor, "runs steps n n"]]:
    """Relative L2 error after 1, 2, … steps of its own, averaged over runs, and the predictions."""
    _check(u, c)
    predicted = rollout(model, u[:, 0], u[:, 1], c, u.shape[1] - 2)
    return relative_error(predicted, u[:, 2:]).mean(dim=0), predicted


def field_energy(
    last: Float[Tensor, "*batch n n"],
    now: Float[Tensor, "*batch n n"],
    c: Float[Tensor, "*batch n n"],
    *,
    interval: float,
    spacing: float,
) -> Float[Tensor, "*batch"]:
    """Kinetic and elastic energy half-way between two snapshots, by differences on the grid."""
    velocity, middle = (now - last) / interval, (now + last) / 2
    kinetic = velocity.square().sum(dim=(-2, -1))
    elastic = torch.zeros_like(kinetic)
    for dim in (-2, -1):
        n = c.shape[dim]
        face = (c.narrow(dim, 1, n - 1).square() + c.narrow(dim, 0, n - 1).square()) / 2
        elastic = elastic + (face * middle.diff(dim=dim).square()).sum(dim=(-2, -1)) / spacing**2
    return spacing**2 * (kinetic + elastic) / 2


def windows(
    u: Float[Tensor, "runs times n n"],
    c: Float[Tensor, "runs n n"],
    batch: int,
    generator: torch.Generator,
    lengths: Callable[[int], int],
) -> Iterator[tuple[Float[Tensor, "batch times n n"], Float[Tensor, "batch n n"]]]:
    """Batches without end of pieces of runs: for the i-th (from 0) two snapshots and ``lengths(i)`` more."""
    number = 0
    while True:
        length = lengths(number) + 2
        if length > u.shape[1]:
            raise ValueError(
                f"{length - 2} steps from two snapshots need {length} snapshots a run; there are {u.shape[1]}"
            )
        runs = torch.randint(len(u), (batch,), generator=generator)
        starts = torch.randint(u.shape[1] - length + 1, (batch,), generator=generator)
        times = starts[:, None] + torch.arange(length)
        yield u[runs[:, None], times], c[runs]
        number += 1


def train(
    model: WaveSimulator,
    u: Float[Tensor, "runs times n n"],
    c: Float[Tensor, "runs n n"],
    *,
    steps: int,
    generator: torch.Generator,
    lr: float = 1e-3,
    batch: int = 16,
    unrolled: int = 1,
    unrolled_share: float = 1 / 3,
    noise: float = 0.0,
    valid: tuple[Float[Tensor, "runs times n n"], Float[Tensor, "runs n n"]] | None = None,
    evaluate_every: int | None = None,
    log: Log | None = None,
    clip: float | None = 1.0,
) -> History:
    """Adam with a cosine schedule on the relative L2 error; of ``unrolled`` steps in the last ``unrolled_share``.

    Args:
        noise: standard deviation of what is added to the two snapshots given, in units of the scale.
        valid: runs by whose one-step error the best of the states seen every ``evaluate_every`` steps is kept.

    Raises:
        ValueError: no runs, fields that are not finite, a noise or share that makes no sense.
    """
    _check(u, c)
    if unrolled < 1 or not 0 <= unrolled_share <= 1 or noise < 0:
        raise ValueError(f"unrolled {unrolled} >= 1, unrolled_share {unrolled_share} in [0, 1], noise {noise} >= 0")
    switch = steps - round(unrolled_share * steps)
    device = u.device

    def loss(network: nn.Module, piece: tuple[Tensor, Tensor]) -> Tensor:
        fields, speed = piece
        last, now = fields[:, 0], fields[:, 1]
        if noise:
            extra = torch.randn(2, *last.shape, generator=generator).to(device)
            last, now = last + noise * model.scale * extra[0], now + noise * model.scale * extra[1]
        total = torch.zeros((), device=device)
        for true in fields[:, 2:].unbind(dim=1):
            last, now = now, network(last, now, speed)
            total = total + relative_error(now, true).mean()
        return total / (fields.shape[1] - 2)

    best: dict[str, object] = {"error": float("inf"), "state": None}

    def evaluate(network: nn.Module) -> dict[str, float]:
        assert valid is not None
        error = one_step_error(model, *valid)
        if error < best["error"]:  # type: ignore[operator]
            best.update(error=error, state=copy.deepcopy(network.state_dict()))
        return {"valid_error": error}

    history = fit(
        model,
        windows(u, c, batch, generator, lambda number: unrolled if number >= switch else 1),
        loss,
        torch.optim.Adam(model.parameters(), lr=lr),
        steps=steps,
        schedule="cosine",
        warmup=0.05,
        clip=clip,
        evaluate=evaluate if valid is not None else None,
        evaluate_every=evaluate_every,
        log=log,
        log_every=max(1, steps // 20),
    )
    if best["state"] is not None:
        model.load_state_dict(best["state"])  # type: ignore[arg-type]
    return history


def _check(u: Tensor, c: Tensor) -> None:
    if u.ndim != 4 or c.shape != (u.shape[0], *u.shape[2:]) or u.shape[1] < 3 or not len(u):
        raise ValueError(
            f"expected runs (runs, 3 or more times, n, n) and a speed (runs, n, n), got {tuple(u.shape)} and "
            f"{tuple(c.shape)}"
        )
    if not (torch.isfinite(u).all() and torch.isfinite(c).all()):
        raise ValueError("the fields or speeds have values that are not finite")
