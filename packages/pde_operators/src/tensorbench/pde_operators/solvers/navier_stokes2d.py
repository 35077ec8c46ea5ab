"""Incompressible flow on the periodic square in vorticity form: pseudo-spectral, RK4 with an integrating factor.

    w_t + (u·∇) w = ν Lap w + f,    u = (ψ_y, -ψ_x),    -Lap ψ = w - mean(w),

so that w = v_x - u_y for u = (u, v). The viscous term is exact (integrating factor exp(-ν|k|²t)), the rest goes by the
classical Runge-Kutta method of order four. With div u = 0 the advection is a second derivative of products of
velocities (Basdevant 1983),

    (u·∇) w = (∂_xx - ∂_yy)(u v) + ∂_xy (v² - u²),

which takes two inverse and two forward transforms a stage instead of five. Products obey the 2/3 rule; only the
coefficients that it keeps are stored along the last axis, and transforms are pruned to them. A batch goes through in
blocks that stay in the processor's cache. Kossaifi et al. (2023, arXiv:2310.00120) learn the map f -> w(T) from rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2, pi

import numpy as np
import torch
from jaxtyping import Float

from tensorbench.pde_operators.grids import dealias_mask, wavenumbers
from tensorbench.pde_operators.solvers.etdrk4 import as_times, check_initial, steps_for

_Force = Callable[[float], torch.Tensor | None]
_BLOCK_POINTS = 2**16  # grid points that are advanced together on a CPU


@dataclass(frozen=True, eq=False)
class _Operators:
    """Everything diagonal, on the kept coefficients (n, kept)."""

    n: int
    kept: int
    laplacian: torch.Tensor  # -|k|²
    to_u: torch.Tensor  # multiplies w: velocity along the first axis, u = ψ_y
    to_v: torch.Tensor  # velocity along the second axis, v = -ψ_x
    from_uv: torch.Tensor  # -(∂_xx - ∂_yy), dealiased
    from_squares: torch.Tensor  # -∂_xy, dealiased


def _operators(n: int, length: float, device: torch.device) -> _Operators:
    kept = (n + 2) // 3  # k < n/3 along the last axis
    kx = wavenumbers(n, length)[:, None]
    ky = wavenumbers(n, length, real=True)[None, :kept]
    k2 = kx**2 + ky**2
    inverse = np.divide(1.0, k2, out=np.zeros_like(k2), where=k2 > 0)
    mask = dealias_mask((n, n))[:, :kept]

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, device=device)

    return _Operators(
        n, kept, tensor(-k2), tensor(1j * ky * inverse * mask), tensor(-1j * kx * inverse * mask),
        tensor((kx**2 - ky**2) * mask), tensor(kx * ky * mask),
    )  # fmt: skip


def _values(hat: torch.Tensor, n: int) -> torch.Tensor:
    return torch.fft.irfft(torch.fft.ifft(hat, dim=-2), n=n, dim=-1)


def _coefficients(values: torch.Tensor, kept: int) -> torch.Tensor:
    return torch.fft.fft(torch.fft.rfft(values, dim=-1)[..., :kept], dim=-2)


def _velocities(w: torch.Tensor, op: _Operators) -> tuple[torch.Tensor, torch.Tensor]:
    return _values(w * op.to_u, op.n), _values(w * op.to_v, op.n)


def _rate(w: torch.Tensor, forcing: torch.Tensor | None, op: _Operators) -> torch.Tensor:
    """Advection and forcing."""
    u, v = _velocities(w, op)
    rate = op.from_uv * _coefficients(u * v, op.kept)
    rate += op.from_squares * _coefficients(v.square_() - u.square_(), op.kept)
    return rate if forcing is None else rate.add_(forcing)


def _step(w: torch.Tensor, half: torch.Tensor, t: float, dt: float, force: _Force, op: _Operators) -> torch.Tensor:
    """One step; ``half`` = exp(ν Lap dt/2)."""
    moved = half * w
    middle = force(t + dt / 2)
    a = _rate(w, force(t), op)
    b = _rate(moved + dt / 2 * (half * a), middle, op)
    c = _rate(moved + dt / 2 * b, middle, op)
    d = _rate(half * (moved + dt * c), force(t + dt), op)
    return half * (moved + dt / 6 * (half * a) + dt / 3 * (b + c)) + dt / 6 * d


def solve(
    initial: Float[np.ndarray, "*batch n n"],
    times: float | list[float] | Float[np.ndarray, " times"],
    *,
    viscosity: float,
    forcing: Float[np.ndarray, "*forced n n"] | Callable[[float], np.ndarray] | None = None,
    dt: float = 0.02,
    adaptive: bool = False,
    courant: float = 1.0,
    length: float = 2 * pi,
    device: torch.device | str = "cpu",
) -> Float[np.ndarray, "*_"]:
    """Vorticity at the given times, shape (\\*batch, times, n, n); for a single time (\\*batch, n, n).

    All in double precision.

    Args:
        initial: vorticity at time 0 on ``grids.periodic_grid(n, length)`` squared, any batch in front.
        forcing: f, one field for all or one for each of the batch; constant in time, or a function of time.
        dt: the largest step. Each span between times is cut into equal steps.
        adaptive: halve dt, as often as it takes, until the fastest velocity of a block of the batch crosses at most
            ``courant`` cells a step (looked at before every step of size ``dt``); the result then depends on which
            fields share a block, within the error of the method.
        courant: the method is stable up to about 2.8/π for the highest kept wavenumbers; 1 suits smooth flows.

    Raises:
        ValueError: fields that are not real, finite and square; a viscosity that is negative.
        FloatingPointError: the solution blew up; use a smaller dt or ``adaptive=True``.
    """
    w0 = check_initial(initial, 2)
    t, single = as_times(times, dt)
    n = w0.shape[-1]
    if w0.shape[-2] != n:
        raise ValueError(f"the grid must be square, got {w0.shape[-2:]}")
    if not (viscosity >= 0 and np.isfinite(viscosity)):
        raise ValueError(f"the viscosity must be finite and not negative, got {viscosity!r}")
    if not courant > 0:
        raise ValueError(f"courant {courant!r} must be positive")
    batch = w0.shape[:-2]
    flat = w0.reshape(-1, n, n)
    op = _operators(n, length, torch.device(device))
    mask = torch.as_tensor(dealias_mask((n, n))[:, : op.kept], device=device)
    fields = _fields(forcing, batch, n)
    block = len(flat) if torch.device(device).type != "cpu" else max(1, _BLOCK_POINTS // n**2)
    result = np.empty((len(flat), len(t), n, n))
    for start in range(0, len(flat), block):
        part = slice(start, start + block)

        def spectrum(values: np.ndarray) -> torch.Tensor:
            return _coefficients(torch.as_tensor(values, device=device), op.kept) * mask

        force = _force(fields, part, spectrum)
        states = _march(spectrum(flat[part]), force, t, viscosity, dt, courant if adaptive else None, length, op)
        for index, state in enumerate(states):
            result[part, index] = _values(state, n).cpu().numpy()
    result = result.reshape(*batch, len(t), n, n)
    return result[..., 0, :, :] if single else result


def _march(
    w: torch.Tensor,
    force: _Force,
    times: np.ndarray,
    viscosity: float,
    dt: float,
    courant: float | None,
    length: float,
    op: _Operators,
) -> list[torch.Tensor]:
    states, now = [], 0.0
    factors: dict[float, torch.Tensor] = {}
    for end in times:
        count = steps_for(end - now, dt)
        for turn in range(count):
            size, parts = (end - now) / count, 1
            if courant is not None:
                u, v = _velocities(w, op)
                crossed = size * float(torch.maximum(u.abs(), v.abs()).max()) * op.n / length / courant
                if not np.isfinite(crossed):
                    break  # said below
                parts = 2 ** max(0, ceil(log2(crossed))) if crossed > 0 else 1
            for part in range(parts):
                h = size / parts
                if h not in factors:
                    factors[h] = torch.exp(viscosity * h / 2 * op.laplacian)
                w = _step(w, factors[h], now + turn * size + part * h, h, force, op)
        if not bool(torch.isfinite(torch.view_as_real(w)).all()):
            raise FloatingPointError(
                f"the flow blew up before t = {end:g} on {op.n}² points with dt = {dt:g}; "
                "use a smaller dt or adaptive=True"
            )
        now = float(end)
        states.append(w)
    return states


def _fields(forcing: object, batch: tuple[int, ...], n: int) -> Callable[[float], np.ndarray] | np.ndarray | None:
    """The forcing as (1 or batch, n, n), or as a function of time that gives such arrays; checked at the door."""
    if forcing is None:
        return None
    if callable(forcing):
        return lambda t: _check_field(forcing(t), batch, n)
    return _check_field(forcing, batch, n)


def _check_field(forcing: object, batch: tuple[int, ...], n: int) -> np.ndarray:
    f = np.asarray(forcing, dtype=np.float64)
    if f.shape not in ((n, n), (*batch, n, n)):
        raise ValueError(f"forcing of shape {f.shape} fits neither one field {(n, n)} nor the batch {(*batch, n, n)}")
    if not np.isfinite(f).all():
        raise ValueError("the forcing has values that are not finite")
    return f.reshape(-1, n, n)


def _force(
    fields: Callable[[float], np.ndarray] | np.ndarray | None,
    part: slice,
    spectrum: Callable[[np.ndarray], torch.Tensor],
) -> _Force:
    """The coefficients of the forcing of one block of the batch as a function of time."""

    def of_block(values: np.ndarray) -> torch.Tensor:
        return spectrum(values[part] if len(values) > 1 else values)

    if fields is None:
        return lambda t: None
    if isinstance(fields, np.ndarray):
        constant = of_block(fields)
        return lambda t: constant
    return lambda t: of_block(fields(t))


def velocity(
    vorticity: Float[np.ndarray, "*batch n n"], length: float = 2 * pi
) -> tuple[Float[np.ndarray, "*batch n n"], Float[np.ndarray, "*batch n n"]]:
    """(u, v) along the first and second axis, without a mean flow, of the coefficients that the 2/3 rule keeps."""
    w = check_initial(vorticity, 2)
    op = _operators(w.shape[-1], length, torch.device("cpu"))
    u, v = _velocities(_coefficients(torch.as_tensor(w), op.kept), op)
    return u.numpy(), v.numpy()


def enstrophy(vorticity: Float[np.ndarray, "*batch n n"]) -> Float[np.ndarray, "*batch"]:
    """Half the mean of w²."""
    return 0.5 * np.mean(np.asarray(vorticity) ** 2, axis=(-2, -1))


def energy(vorticity: Float[np.ndarray, "*batch n n"], length: float = 2 * pi) -> Float[np.ndarray, "*batch"]:
    """Half the mean of u² + v²."""
    u, v = velocity(vorticity, length)
    return 0.5 * np.mean(u**2 + v**2, axis=(-2, -1))
