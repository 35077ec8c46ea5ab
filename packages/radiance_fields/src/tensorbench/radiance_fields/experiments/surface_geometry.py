"""Curvature, area, Gauss-Bonnet and geodesics of known surfaces: by differentiating maps, and by other means.

``exact_map`` differentiates the closed form itself (what is left is rounding). ``neural`` and ``neural_relu``
differentiate a network fitted to as many samples as the vertices from which ``mesh`` takes its discrete curvatures;
``differences`` are central differences of the closed form. Errors are means over a grid inside the parameters, those of
H and K relative to the largest |H| and |K| of the surface (to 1 where that is 0); H is compared without its sign.
With ReLU what curvature there is comes from the encoding before it: within a linear piece the network adds none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.experiments.surface_drawing import bare, draw_curve, draw_surface, view
from tensorbench.radiance_fields.surfaces import geodesics
from tensorbench.radiance_fields.surfaces.geometry import from_derivatives, gauss_bonnet, geometry
from tensorbench.radiance_fields.surfaces.isometries import Shape
from tensorbench.radiance_fields.surfaces.meshes import (
    discrete_curvature,
    face_areas,
    grid_mesh,
    interpolation,
    mixed_areas,
    vertex_normals,
)  # fmt: skip
from tensorbench.radiance_fields.surfaces.nets import SurfaceNet
from tensorbench.radiance_fields.surfaces.registration import solve_last_layer

QUANTITIES = ("normal", "area", "mean", "gauss", "total", "geodesic")
DRAWN = 31  # side of the grids that are drawn
INSIDE = 0.9  # share of the parameters in which errors are taken: a mesh has no curvature on its border
GEODESICS = {"cylinder": ((-0.5, -0.4), (0.5, 0.3)), "sphere": ((-0.9, -0.5), (0.8, 0.6))}


def on_unit_square(shape: Shape) -> Callable[[Tensor], Tensor]:
    """The map with parameters in [-1, 1]²."""
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (shape.low, shape.high))
    return lambda x: shape.map((low + high) / 2 + x * (high - low) / 2)


def true_distance(name: str, shape: Shape, ends: tuple[tuple[float, float], tuple[float, float]]) -> float:
    """Straight in the sheet that a cylinder is; along the great circle of a sphere."""
    a, b = (torch.tensor(end, dtype=torch.float64) for end in ends)
    if name == "cylinder":
        return float((a - b).norm())
    x, y = shape.map(torch.stack([a, b]))
    return math.atan2(float(torch.linalg.cross(x, y).norm()), float(x @ y))


def fitted(shape: Shape, side: int, steps: int, generator: torch.Generator, **options: Any) -> SurfaceNet:
    """A network on [-1, 1]² fitted to a grid of samples: last layer by least squares, then all of it by L-BFGS."""
    net = SurfaceNet(generator=generator, dtype=torch.float64, **options)
    uv = torch.from_numpy(grid_mesh(side, low=(-1, -1), high=(1, 1))[0])
    with torch.no_grad():
        goal = on_unit_square(shape)(uv)
    solve_last_layer(net, uv.numpy(), goal.numpy())
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=steps, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
        tolerance_change=1e-16,
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (net(uv) - goal).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return net


Found = dict[str, Any]


def of_map(f: Callable[[Tensor], Tensor], shape: Shape, name: str, at: Tensor, smooth: bool = True) -> Found:
    """All quantities of a differentiable map on [-1, 1]²."""
    found = geometry(f, at)
    whole = gauss_bonnet(f, (-1.0, -1.0), (1.0, 1.0), 48)
    return {
        "points": found.points, "normal": found.normal, "mean": found.mean, "gauss": found.gauss, "area": whole.area,
        "total": whole.curvature, "geodesic": _shortest(f, shape, name) if smooth else math.nan,
    }  # fmt: skip


def _shortest(f: Callable[[Tensor], Tensor], shape: Shape, name: str) -> float:
    if name not in GEODESICS:
        return math.nan
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (shape.low, shape.high))
    a, b = ((torch.tensor(end, dtype=torch.float64) - low) / (high - low) * 2 - 1 for end in GEODESICS[name])
    return geodesics.shortest_curve(f, a, b, points=41)[1]


def exact_map(shape: Shape, name: str, at: Tensor, run: Run) -> Found:
    return of_map(on_unit_square(shape), shape, name, at)


def neural(shape: Shape, name: str, at: Tensor, run: Run, *, side: int, steps: int, **options: Any) -> Found:
    net = fitted(shape, side, steps, run.generator, **options).requires_grad_(False)
    return of_map(net, shape, name, at, smooth=options.get("activation") != "relu")


def differences(shape: Shape, name: str, at: Tensor, run: Run, *, h: float) -> Found:
    """Central differences with step h of the closed form; areas and totals by a midpoint rule."""
    f = on_unit_square(shape)
    u, v = (h * torch.eye(2, dtype=at.dtype)[k] for k in (0, 1))

    def differentiated(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centre = f(x)
        first = [(f(x + d) - f(x - d)) / (2 * h) for d in (u, v)]
        pure = [(f(x + d) - 2 * centre + f(x - d)) / h**2 for d in (u, v)]
        mixed = (f(x + u + v) - f(x + u - v) - f(x - u + v) + f(x - u - v)) / (4 * h**2)
        second = torch.stack([torch.stack([pure[0], mixed], -1), torch.stack([mixed, pure[1]], -1)], -1)
        return centre, torch.stack(first, -1), second

    n = 40
    middle = (torch.arange(n, dtype=at.dtype) + 0.5) * 2 / n - 1
    everywhere = from_derivatives(*differentiated(torch.cartesian_prod(middle, middle)))
    found, cell = from_derivatives(*differentiated(at)), (2 / n) ** 2
    return {
        "points": found.points, "normal": found.normal, "mean": found.mean, "gauss": found.gauss,
        "area": float(everywhere.area.sum() * cell), "total": float((everywhere.gauss * everywhere.area).sum() * cell),
        "geodesic": math.nan,
    }  # fmt: skip


def inwards(grid: np.ndarray) -> np.ndarray:
    """The values on the border of a grid replaced by those next to it."""
    return np.pad(grid[1:-1, 1:-1], 1, mode="edge")


def mesh(shape: Shape, name: str, at: Tensor, run: Run, *, side: int) -> Found:
    """Discrete curvatures at the vertices, interpolated; geodesics by the heat method."""
    uv, faces = grid_mesh(side, low=(-1, -1), high=(1, 1), alternate=False)
    points = on_unit_square(shape)(torch.from_numpy(uv)).numpy()
    mean, gauss = (inwards(part.reshape(side, side)).ravel() for part in discrete_curvature(points, faces))
    values = interpolation(uv, faces, at.numpy())
    found = {
        "points": torch.from_numpy(values @ points), "normal": torch.from_numpy(values @ vertex_normals(points, faces)),
        "mean": torch.from_numpy(values @ mean),
        "gauss": torch.from_numpy(values @ gauss),
        "area": float(face_areas(points, faces).sum()),
        "total": float(gauss @ mixed_areas(points, faces)), "geodesic": math.nan,
    }  # fmt: skip
    if name in GEODESICS:
        low, high = np.array(shape.low), np.array(shape.high)
        a, b = ((np.array(end) - low) / (high - low) * 2 - 1 for end in GEODESICS[name])
        snapped = [int(np.linalg.norm(uv - end, axis=1).argmin()) for end in (a, b)]
        found["geodesic"] = float(geodesics.mesh_distances(points, faces, snapped[0])[snapped[1]])
        found["ends"] = [tuple(low + (uv[k] + 1) / 2 * (high - low)) for k in snapped]
    return found


METHODS: dict[str, Callable[..., Found]] = {
    "exact_map": exact_map, "neural": neural, "differences": differences, "mesh": mesh,
}  # fmt: skip


def errors_of(found: Found, shape: Shape, name: str, at: Tensor) -> dict[str, float]:
    """Errors by quantity; NaN where there is no closed form, or nothing was found."""
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (shape.low, shape.high))
    uv = (low + high) / 2 + at * (high - low) / 2
    truth = geometry(shape.map, uv)
    mean, gauss = shape.mean(uv).abs(), shape.gauss(uv)
    cosine = (torch.nn.functional.normalize(found["normal"], dim=1) * truth.normal).sum(1).abs().clamp_max(1)
    sine = (found["normal"] - (found["normal"] * truth.normal).sum(1, keepdim=True) * truth.normal).norm(dim=1)
    exact = gauss_bonnet(shape.map, shape.low, shape.high, 48)
    result = {
        "position": float((found["points"] - truth.points).norm(dim=1).mean()),
        "normal": float(torch.rad2deg(torch.atan2(sine, cosine)).mean()),
        "mean": _relative((found["mean"].abs() - mean).abs(), mean),
        "gauss": _relative((found["gauss"] - gauss).abs(), gauss),
        "area": abs(found["area"] / exact.area - 1),
        "total": abs(found["total"] - exact.curvature),
    }
    if name in GEODESICS and not math.isnan(found["geodesic"]):
        ends = found.get("ends", GEODESICS[name])
        result["geodesic"] = abs(found["geodesic"] / true_distance(name, shape, ends) - 1)
    return result


def _relative(error: Tensor, true: Tensor) -> float:
    largest = float(true.abs().max())
    return float(error.mean()) / (largest if largest > 1e-9 else 1.0)


def run(run: Run) -> None:
    """All surfaces by one method."""
    options = dict(run.method.params)
    inside, shown = (torch.from_numpy(grid_mesh(n, low=(-1, -1), high=(1, 1))[0]) for n in (21, DRAWN))
    at = torch.cat([INSIDE * inside, shown])
    rows, kept = list[dict[str, float]](), dict[str, np.ndarray]()
    with run.time("fit"):
        for name, shape in run.dataset.load(run.seed).items():
            found = METHODS[run.method.uses](shape, name, at, run, **options)
            drawn = {f"{name}_{kind}": found[kind][len(inside) :].numpy() for kind in ("points", "gauss")}
            found |= {kind: found[kind][: len(inside)] for kind in ("points", "normal", "mean", "gauss")}
            errors = errors_of(found, shape, name, at[: len(inside)])
            rows.append(errors)
            run.log(**{f"{quantity}_{name}": value for quantity, value in errors.items()})
            kept |= drawn
    table = pd.DataFrame(rows)
    run.log(**{f"{quantity}_error": table[quantity].mean() for quantity in table})
    if run.seed == 0 and run.method.name in ("exact_map", "neural", "mesh", "neural_relu"):
        shapes = run.dataset.load(run.seed)
        kept |= curves(shapes) if run.method.name == "exact_map" else {}
        small: Any = {key: np.asarray(value, np.float32) for key, value in kept.items()}
        np.savez_compressed(run.artifact("surfaces.npz"), **small)


def curves(shapes: dict[str, Shape]) -> dict[str, np.ndarray]:
    """Geodesics from the middle of each surface in twelve directions, with normals, to be drawn."""
    found = {}
    angle = torch.arange(12, dtype=torch.float64) * math.pi / 6
    for name, shape in shapes.items():
        f = on_unit_square(shape)
        start = torch.tensor([[-0.15, 0.2]], dtype=torch.float64).expand(12, 2)
        size = math.sqrt(gauss_bonnet(f, (-1.0, -1.0), (1.0, 1.0), 12).area)
        at_start = geometry(f, start)
        frame = torch.linalg.inv(torch.linalg.cholesky(at_start.first[0])).T  # orthonormal in the surface
        velocity = torch.stack([angle.cos(), angle.sin()], 1) @ frame.T
        path = geodesics.exponential_map(f, start, velocity, 0.45 * size, 40)
        inside = (path.abs() <= 1).all(-1) if shape.chi is None else torch.ones(path.shape[:2], dtype=torch.bool)
        points = geometry(f, path.reshape(-1, 2))
        clipped = torch.where(inside.reshape(-1, 1), points.points, math.nan)
        found[f"{name}_curves"] = clipped.reshape(*path.shape[:2], 3).numpy()
        found[f"{name}_normals"] = points.normal.reshape(*path.shape[:2], 3).numpy()
    return found


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Surfaces coloured by curvature, and errors by quantity."""
    yield "curvature", curvature(records)
    yield "errors", errors(records)


LIMITS = {"cylinder": 1.0, "sphere": 1.5, "torus": 6.0, "catenoid": 1.0, "saddle": 2.6}
VIEWS = {"cylinder": (25, 30), "sphere": (20, 15), "torus": (40, 40), "catenoid": (25, 15), "saddle": (35, 35)}
NAMES = {"exact_map": "closed form", "neural": "network", "neural_relu": "network, ReLU", "mesh": "mesh"}


def curvature(records: pd.DataFrame) -> Figure:
    """A row for each way to find K, a column for each surface."""
    files = rec.artifacts(records, "surfaces.npz") if len(records) else pd.DataFrame()
    if files.empty:
        return plotting.nothing()
    found = {str(row.method): dict(np.load(str(row.path))) for row in files.itertuples()}
    methods = [name for name in NAMES if name in found]
    shapes = [key.removesuffix("_gauss") for key in found[methods[0]] if key.endswith("_gauss")]
    fig, axes = plotting.figure(
        columns=2, rows=len(methods), cols=len(shapes), height=2.9 * len(methods) + 1.2, squeeze=False
    )
    cmap = mpl.colormaps["RdBu_r"]
    for column, name in enumerate(shapes):
        norm = TwoSlopeNorm(0.0, -LIMITS[name], LIMITS[name])
        for row, method in enumerate(methods):
            ax, part = axes[row, column], found[method]
            side = round(math.sqrt(len(part[f"{name}_points"])))
            points = part[f"{name}_points"].astype(float).reshape(side, side, 3)
            axis = view(*VIEWS[name])
            draw_surface(ax, points, part[f"{name}_gauss"].reshape(side, side), axes=axis, norm=norm, cmap=cmap)
            if method == "exact_map" and f"{name}_curves" in part:
                lines, normals = part[f"{name}_curves"].astype(float), part[f"{name}_normals"].astype(float)
                outward = normals if name == "torus" else None
                for k in range(lines.shape[1]):
                    draw_curve(
                        ax,
                        lines[:, k],
                        None if outward is None else outward[:, k],
                        axis,
                        color="#222222",
                        linewidth=0.5,
                    )
            bare(ax, points.reshape(-1, 3), axis, square=True)
            if column == 0:
                ax.set_ylabel(NAMES[method], fontsize=8)
            if row == 0:
                ax.set_title(plotting.label(name), fontsize=8.5)
        bar = fig.colorbar(
            mpl.cm.ScalarMappable(norm, cmap), ax=axes[:, column], location="bottom", shrink=0.85, aspect=14, pad=0.02
        )
        bar.ax.tick_params(labelsize=6.5)
        bar.set_ticks([-LIMITS[name], 0, LIMITS[name]])
        if column == len(shapes) // 2:
            bar.set_label("Gaussian curvature K", fontsize=8)
    return fig


LABELS = {
    "normal": "normal (°)", "mean": "mean curv.", "gauss": "Gauss curv.", "area": "area", "total": "∫K dA",
    "geodesic": "geodesic",
}  # fmt: skip


def errors(records: pd.DataFrame) -> Figure:
    """Mean errors over the surfaces, by quantity."""
    fig, ax = plotting.figure(columns=2, height=6.5)
    names = [f"{quantity}_error" for quantity in LABELS if f"{quantity}_error" in records]
    if not names:
        plotting.empty(ax)
        return fig
    long = records.melt(["method", "seed"], names, "quantity", "error").dropna()
    long["quantity"] = long["quantity"].str.removesuffix("_error").map(LABELS)
    long["error"] = long["error"].clip(lower=1e-17)
    plotting.bars(
        ax, long, "error", group="quantity", log=True, groups=[LABELS[n.removesuffix("_error")] for n in names]
    )
    ax.set_ylabel("error")
    plotting.legend(fig)
    return fig
