"""Aligning a periodic signal with a shifted copy of itself: where the gradient points home, with and without a filter.

The pilot study of Cheng, Chiu and Liu 2024 (arXiv 2402.13252; of the text only the abstract and the introduction were
at hand, the formulas are derived here): for L(u) = ∫ |f(x) − f(x + u)|² dx, Parseval gives
dL/du = Σ_k |F_k|² 4 π k sin(2 π k u); a filter multiplies |F_k|² by |N_k|², for a Gaussian exp(−4 π² σ² k²). The
sum over k is positive for every small u > 0; the basin is where it first is not. :func:`align_windows` learns a signal
and the shifts of the windows through which it was seen, jointly, as a field and its cameras are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.joint_pose.schedules import interpolated


def power(signal: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch k"]:
    """|F_k|² of signals on n even points of a period, for k = 0 to n / 2, negative k counted along."""
    n = signal.shape[-1]
    spectrum = torch.fft.rfft(signal, norm="forward").abs().square()
    spectrum[..., 1 : (n + 1) // 2] *= 2
    return spectrum


def transfer(kind: str, width: float, k: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """N_k of a filter of standard deviation ``width`` (shares of the period): gaussian, box or unfiltered."""
    filters: dict[str, Callable[[], Tensor]] = {
        "gaussian": lambda: torch.exp(-2 * (torch.pi * width * k) ** 2),
        "box": lambda: torch.sinc(12**0.5 * width * k),  # of the full length √12 σ
        "unfiltered": lambda: torch.ones_like(k),
    }
    if kind not in filters:
        raise ValueError(unknown("filter", kind, filters))
    if width < 0:
        raise ValueError(f"width {width} must be at least 0")
    return filters[kind]()


def _frequencies(p: Tensor) -> Tensor:
    return torch.arange(p.shape[-1], dtype=p.dtype, device=p.device)


def shift_loss(p: Float[Tensor, "*batch k"], u: Float[Tensor, "m"]) -> Float[Tensor, "*batch m"]:
    """L(u) = Σ_k p_k (2 − 2 cos 2πku) from the power p of the (filtered) signal."""
    phase = 2 * torch.pi * torch.outer(_frequencies(p), u)
    return p @ (2 - 2 * phase.cos())


def shift_gradient(p: Float[Tensor, "*batch k"], u: Float[Tensor, "m"]) -> Float[Tensor, "*batch m"]:
    """dL/du = Σ_k p_k 4πk sin 2πku."""
    k = _frequencies(p)
    return (p * 4 * torch.pi * k) @ torch.sin(2 * torch.pi * torch.outer(k, u))


def filtered_power(signal: Float[Tensor, "*batch n"], kind: str, width: float) -> Float[Tensor, "*batch k"]:
    """|F_k|² |N_k|²."""
    p = power(signal)
    return p * transfer(kind, width, _frequencies(p)).square()


def basin(p: Float[Tensor, "*batch k"], points: int = 2000) -> Float[Tensor, "*batch"]:
    """The smallest shift at which the gradient does not point home; half a period where it always does."""
    u = torch.linspace(0, 0.5, points + 2, dtype=p.dtype)[1:-1]
    wrong = shift_gradient(p, u) <= 0
    first = torch.where(wrong.any(-1), wrong.to(torch.int8).argmax(-1), points - 1)
    return torch.where(wrong.any(-1), u[first], torch.full_like(u[first], 0.5))


@dataclass(frozen=True)
class Windows:
    """Signals (s, n) on [0, 1), and samples (s, m, q) of each through m windows at x + shift."""

    signals: Float[Tensor, "s n"]
    samples: Float[Tensor, "s m q"]
    places: Float[Tensor, "q"]
    shifts: Float[Tensor, "s m"]


def sample_periodic(signal: Float[Tensor, "s n"], x: Float[Tensor, "s m q"]) -> Float[Tensor, "s m q"]:
    """Linear interpolation of periodic signals at x (periods)."""
    n = signal.shape[-1]
    at = x * n
    low = at.floor()
    share = at - low
    index = low.long().flatten(1) % n
    left = torch.gather(signal, 1, index).view_as(x)
    right = torch.gather(signal, 1, (index + 1) % n).view_as(x)
    return left + share * (right - left)


def open_windows(
    signals: Float[Tensor, "s n"],
    generator: torch.Generator,
    *,
    count: int = 5,
    length: float = 0.5,
    most: float = 0.15,
) -> Windows:
    """Look at each signal through windows of one length, moved by up to ``most``; the first is not moved."""
    n = signals.shape[-1]
    places = torch.arange(int(length * n)) / n
    shifts = (2 * torch.rand(len(signals), count, generator=generator) - 1) * most
    shifts[:, 0] = 0
    samples = sample_periodic(signals, places + shifts[..., None])
    return Windows(signals, samples, places, shifts)


def filter_signals(signals: Float[Tensor, "*batch n"], kind: str, width: float) -> Float[Tensor, "*batch n"]:
    """Periodic signals under a filter, by their spectrum."""
    spectrum = torch.fft.rfft(signals)
    k = torch.arange(spectrum.shape[-1], dtype=signals.dtype)
    return torch.fft.irfft(spectrum * transfer(kind, width, k), n=signals.shape[-1])


def align_windows(
    windows: Windows, kind: str, schedule: tuple[float, ...], *, steps: int, lr: float, lr_shift: float,
) -> tuple[Float[Tensor, "s m"], list[tuple[int, float]]]:  # fmt: skip
    """Learn the signals and the shifts together by Adam, from signals and shifts of zero.

    The field (and, as the samples are all there is to compare with, what it is compared with: the filter acts on the
    windows' samples with repeated ends) is filtered by the scheduled width. Returns the shifts and the mean absolute
    error of the shifts over the steps. The first window holds the place.
    """
    field = torch.zeros_like(windows.signals, requires_grad=True)
    free = torch.zeros_like(windows.shifts[:, 1:], requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [field], "lr": lr}, {"params": [free], "lr": lr_shift}])
    rates = [group["lr"] for group in optimizer.param_groups]
    n = windows.signals.shape[-1]
    errors: list[tuple[int, float]] = []
    every = max(1, steps // 50)
    target = windows.samples
    for step in range(steps + 1):
        shifts = torch.cat([torch.zeros_like(free[:, :1]), free], 1)
        if step % every == 0 or step == steps:
            errors.append((step, float((shifts - windows.shifts).abs().mean().detach())))
        if step == steps:
            break
        width = interpolated(step / steps, schedule)
        if step % every == 0:
            target = _filtered_windows(windows.samples, kind, width, n)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * 0.1 ** (step / steps)
        smooth = filter_signals(field, kind, width)
        loss = (sample_periodic(smooth, windows.places + shifts[..., None]) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return shifts.detach(), errors


def _filtered_windows(samples: Tensor, kind: str, width: float, n: int) -> Tensor:
    """Samples filtered within their windows, the ends repeated as far as the period reaches."""
    q = samples.shape[-1]
    before = (n - q) // 2
    left = samples[..., :1].expand(*samples.shape[:-1], before)
    right = samples[..., -1:].expand(*samples.shape[:-1], n - q - before)
    return filter_signals(torch.cat([left, samples, right], -1), kind, width)[..., before : before + q]
