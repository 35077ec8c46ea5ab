"""Videos: the vorticity of a decaying flow on a periodic square, and shapes that move."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset


def _random_vorticity(n: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian random field of mean 0 and deviation 1 whose amplitudes fall as exp(−(k / scale)²)."""
    k = np.fft.fftfreq(n, 1 / n)
    k2 = k[:, None] ** 2 + k**2
    hat = np.fft.fft2(rng.standard_normal((n, n))) * np.exp(-k2 / scale**2)
    hat[0, 0] = 0
    field = np.fft.ifft2(hat).real
    return field / field.std()


def decaying_flow(
    n: int,
    times: Float[np.ndarray, " times"],
    viscosity: float,
    scale: float,
    rng: np.random.Generator,
    dt: float = 0.01,
) -> Float[np.ndarray, "n n times"]:
    """Vorticity (n, n, times) of ∂w/∂t + u·∇w = ν Δw, u = (∂ψ/∂y, −∂ψ/∂x), −Δψ = w on [0, 2π]², from a random field.

    Pseudo-spectral with the 2/3 rule; classical Runge-Kutta steps with the viscous term integrated exactly.
    """
    k = np.fft.fftfreq(n, 1 / n)
    kx, ky = k[:, None], k[None, : n // 2 + 1]
    ky = np.abs(ky)
    k2 = kx**2 + ky**2
    inverse = np.divide(1.0, k2, out=np.zeros_like(k2), where=k2 > 0)
    kept = (np.abs(kx) < n / 3) & (ky < n / 3)

    def rate(w: np.ndarray) -> np.ndarray:
        u, v, wx, wy = (np.fft.irfft2(factor * w, (n, n)) for factor in
                        (1j * ky * inverse, -1j * kx * inverse, 1j * kx, 1j * ky))  # fmt: skip
        return -1.0 * kept * np.fft.rfft2(u * wx + v * wy)

    w = kept * np.fft.rfft2(_random_vorticity(n, scale, rng))
    frames, now = [], 0.0
    for end in times:
        steps = max(0, int(np.ceil((end - now) / dt - 1e-9)))
        h = (end - now) / steps if steps else 0.0
        half = np.exp(-viscosity * k2 * h / 2)
        for _ in range(steps):
            moved = half * w
            a = rate(w)
            b = rate(moved + h / 2 * half * a)
            c = rate(moved + h / 2 * b)
            d = rate(half * (moved + h * c))
            w = half * (moved + h / 6 * half * a + h / 3 * (b + c)) + h / 6 * d
        now = float(end)
        frames.append(np.fft.irfft2(w, (n, n)))
    return np.stack(frames, axis=-1)


@dataset(
    title="Vorticity of a decaying two-dimensional flow",
    source="generated here (pseudo-spectral Navier-Stokes)",
    licence="Apache-2.0",
    generated=True,
    cache=True,
)
def decaying_vorticity(
    *, seed: int, n: int = 64, frames: int = 32, duration: float = 3.0, viscosity: float = 1e-3, scale: float = 5.0
) -> Float[np.ndarray, "n n frames"]:
    """Vorticity (n, n, frames) on [0, 2π)² at ``frames`` equidistant times from 0 to ``duration``; deviation 1 at 0."""
    times = np.linspace(0.0, duration, frames)
    return decaying_flow(n, times, viscosity, scale, np.random.default_rng(seed))


@dataset(title="Moving shapes", source="generated here", licence="Apache-2.0", generated=True, cache=True)
def moving_shapes(*, seed: int, n: int = 64, frames: int = 32, shapes: int = 5) -> Float[np.ndarray, "n n frames"]:
    """Brightness (n, n, frames) in [0, 1]: discs and boxes that turn and bounce off the walls, edges a pixel soft."""
    rng = np.random.default_rng(seed)
    axis = (np.arange(n) + 0.5) / n
    x, y = axis[:, None, None], axis[None, :, None]
    t = np.linspace(0.0, 1.0, frames)
    video = np.full((n, n, frames), 0.1)
    for number in range(shapes):
        size, shade = rng.uniform(0.07, 0.16), rng.uniform(0.3, 1.0)
        start, speed = rng.uniform(0.2, 0.8, 2), rng.uniform(-1.0, 1.0, 2)
        place = 1 - np.abs((start[:, None] + speed[:, None] * t) % 2 - 1)
        dx, dy = x - place[0], y - place[1]
        if number % 2:
            turn = rng.uniform(-3.0, 3.0) * t
            dx, dy = np.cos(turn) * dx + np.sin(turn) * dy, -np.sin(turn) * dx + np.cos(turn) * dy
            distance = np.maximum(np.abs(dx), np.abs(dy)) - size
        else:
            distance = np.hypot(dx, dy) - size
        share = np.clip(0.5 - distance * n, 0.0, 1.0)
        video = share * shade + (1 - share) * video
    return video
