"""A bending sheet followed by one camera: the network with its metric kept, and what else could be done.

Every method is ``METHODS[name](sequence, rng, **params)`` and yields a surface (a map of parameters) for each frame. It
is given camera, template and observations; the truth is read by the evaluation alone. A run goes through all cases of
the dataset. A trial of the tuning is a shorter sequence with another seed, whose truth judges it, for all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.radiance_fields.experiments import tracking_figures
from tensorbench.radiance_fields.surfaces.baselines import linear_model, mesh, socp
from tensorbench.radiance_fields.surfaces.evaluation import Surface, compare, edge_error, mesh_surface
from tensorbench.radiance_fields.surfaces.meshes import Template, edges_of, grid_mesh, interpolation
from tensorbench.radiance_fields.surfaces.nets import SurfaceNet
from tensorbench.radiance_fields.surfaces.registration import register
from tensorbench.radiance_fields.surfaces.sequences import SurfaceSequence
from tensorbench.radiance_fields.surfaces.tracking import Weights, correspondence_terms, track

PLAIN = ("cylinder", "curve", "cone")  # the cases with a pixel of noise and no outliers
NOISE = {"noise_0": 0, "cylinder": 1, "noise_3": 3}
OUTLIERS = {"cylinder": 0, "outliers_10": 10, "outliers_30": 30}
MARGIN = 0.97  # share of the sheet in which surfaces are compared, so that differences fit in


def network(
    sequence: SurfaceSequence,
    rng: np.random.Generator,
    *,
    hidden: list[int],
    weights: dict[str, float],
    device: torch.device | None = None,
    beta: float = 5.0,
    threshold: float = 2.0,
    registration: str = "least_squares",
    **options: Any,
) -> Iterator[Surface]:
    """The paper's method; ``weights: {metric: 0}`` is the network without it."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    net = SurfaceNet(hidden, beta=beta, generator=generator).to(device or torch.device("cpu"))
    registered = register(net, sequence.template, method=registration, rng=rng)
    terms = correspondence_terms(registered, sequence.camera, sequence.observations, threshold)
    for fit in track(registered, terms, weights=Weights(**weights), rng=rng, **options):
        yield fit.surface


def coarse(sequence: SurfaceSequence, side: int) -> Template:
    """The template on a side × side grid of its parameters' box."""
    fine = sequence.template
    uv, faces = grid_mesh(side, low=tuple(fine.uv.min(0)), high=tuple(fine.uv.max(0)))  # type: ignore[arg-type]
    return Template(uv, interpolation(fine.uv, fine.faces, uv) @ fine.points, faces)


def edge_mesh(sequence: SurfaceSequence, rng: np.random.Generator, *, side: int, **options: Any) -> Iterator[Surface]:
    template = coarse(sequence, side)
    for points in mesh.track_mesh(sequence, template, side, **options):
        yield mesh_surface(template.uv, template.faces, points)


def cone_program(
    sequence: SurfaceSequence, rng: np.random.Generator, *, side: int, depth_weight: float
) -> Iterator[Surface]:
    template = coarse(sequence, side)
    for points in socp.track_socp(sequence, template, depth_weight=depth_weight):
        yield mesh_surface(template.uv, template.faces, points)


def rigid(sequence: SurfaceSequence, rng: np.random.Generator, *, threshold: float = 2.0) -> Iterator[Surface]:
    template = sequence.template
    for points in linear_model.track_linear(
        sequence, template, linear_model.rigid_model(template), threshold=threshold
    ):
        yield mesh_surface(template.uv, template.faces, points)


def principal_bends(
    sequence: SurfaceSequence, rng: np.random.Generator, *, side: int, components: int, **options: Any
) -> Iterator[Surface]:
    """Its examples are bends of the very kinds that it is then tried on, with other parameters."""
    template = coarse(sequence, side)
    model = linear_model.bends_model(template.uv, components, np.random.default_rng([99, components]))
    for points in linear_model.track_linear(sequence, template, model, **options):
        yield mesh_surface(template.uv, template.faces, points)


METHODS: dict[str, Callable[..., Iterator[Surface]] | None] = {
    "network": network,
    "edge_mesh": edge_mesh,
    "cone_program": cone_program,
    "rigid": rigid,
    "principal_bends": principal_bends,
    "ablations": None,
}


def evaluated_at(template: Template, times: int = 1) -> np.ndarray:
    """Parameters at which surfaces are compared: the centres of n × n equal cells, about ``times`` as many of them as
    vertices, so that denser ones stand for the same mean over the sheet.
    """
    n = round(np.sqrt(times * len(template.uv)))
    low, high = template.uv.min(0), template.uv.max(0)
    share = (np.arange(n) + 0.5) / n - 0.5
    grid = np.stack(np.meshgrid(share, share, indexing="ij"), -1).reshape(-1, 2)
    return (low + high) / 2 + MARGIN * grid * (high - low)


def truth_of(sequence: SurfaceSequence, frame: int) -> Surface:
    """The exact surface, or what lies between the vertices where only they are known."""
    if sequence.exact:
        return sequence.exact[frame]
    if sequence.truth is None:
        raise ValueError(f"sequence {sequence.name!r} has no ground truth to compare with")
    return mesh_surface(sequence.template.uv, sequence.template.faces, sequence.truth[frame])


def followed(
    sequence: SurfaceSequence, surfaces: Iterator[Surface], extra: bool = False
) -> tuple[pd.DataFrame, list[Surface]]:
    """Errors and seconds of each frame, and the surfaces."""
    at, edges = evaluated_at(sequence.template), edges_of(sequence.template.faces)[0]
    rows, kept = [], []
    started = time.perf_counter()
    for k, surface in enumerate(surfaces):
        seconds = time.perf_counter() - started
        found = compare(surface, truth_of(sequence, k), at, sequence.camera)
        row = vars(found) | {"seconds": seconds}
        row["edges"] = edge_error(surface(sequence.template.uv), sequence.template.points, edges)
        if extra:
            for times in (2, 10):
                dense = evaluated_at(sequence.template, times)
                row[f"dense_{times}"] = np.linalg.norm(surface(dense) - truth_of(sequence, k)(dense), axis=1).mean()
        rows.append(row)
        kept.append(surface)
        started = time.perf_counter()
    return pd.DataFrame(rows), kept


def run(run: Run) -> None:
    """All cases by one method; a trial on a sequence of its own."""
    options = dict(run.method.params)
    tune = options.pop("tune")
    if run.method.uses == "ablations":
        return ablations(run, options)
    method = METHODS[run.method.uses]
    assert method is not None
    if run.method.uses == "network":
        options["weights"] = {
            name: options.pop(f"{name}_weight") for name in ("time", "metric") if f"{name}_weight" in options
        }
        options["device"] = run.device
    if run.trial is not None:
        trials = run.dataset.load(tune["seed"], cases=tune["cases"], first=tune["first"])
        errors = [followed(case, method(case, run.rng, **options))[0]["distance"].mean() for case in trials.values()]
        run.log(valid_error=float(np.mean(errors)))
        return
    tables, shown = {}, {}
    with run.time("fit"):
        for name, sequence in run.dataset.load(run.seed).items():
            tables[name], surfaces = followed(
                sequence, method(sequence, run.rng, **options), extra=run.method.uses == "network" and name in PLAIN
            )
            shown[name] = surfaces
            run.log(**{f"error_{name}": tables[name]["distance"].mean()})
    for k, value in enumerate(tables[next(iter(tables))]["distance"]):
        run.log(step=k + 1, frame_error=value)
    for kind, steps in (("noise_error", NOISE), ("outlier_error", OUTLIERS)):
        for name, step in steps.items():
            if name in tables:
                run.log(step=step, **{kind: tables[name]["distance"].mean()})
    plain = pd.concat([tables[name] for name in tables if name in PLAIN] or list(tables.values()))
    means = plain.mean()
    run.log(
        error=means["distance"], normal_degrees=means["normal_degrees"], metric_deviation=means["metric"],
        pixel_error=means["pixels"], edge_error=means["edges"], frame_seconds=means["seconds"],
    )  # fmt: skip
    if "dense_2" in means:
        run.log(dense_change=max(abs(means[f"dense_{times}"] / means["distance"] - 1) for times in (2, 10)))
    if run.seed == 0:
        tracking_figures.keep(run, run.dataset.load(run.seed), shown)


def ablations(run: Run, options: dict[str, Any]) -> None:
    """Other metric losses, weights, numbers of control points, and the squared loss under outliers."""
    losses, weights, controls = (options.pop(name) for name in ("losses", "metric_weights", "controls"))
    first = options.pop("first")
    base = {"time": options.pop("time_weight"), "metric": options.pop("metric_weight")}
    common = options | {"device": run.device}
    cases = run.dataset.load(run.seed, cases=["cylinder", "outliers_30"], first=first)

    def error(case: str = "cylinder", weights: dict[str, float] = base, **changes: Any) -> float:
        sequence = cases[case]
        surfaces = network(sequence, run.rng, **(common | {"weights": weights} | changes))
        return float(followed(sequence, surfaces)[0]["distance"].mean())

    with run.time("fit"):
        plain = error()
        run.log(error_frobenius=plain)
        for loss in losses:
            run.log(**{f"error_{loss}": error(metric_loss=loss)})
        for weight in weights:
            same = weight == base["metric"]
            run.log(step=weight, weight_error=plain if same else error(weights=base | {"metric": weight}))
        by_control = {n: plain if n == common["control"] else error(control=n) for n in controls}
        for n, value in by_control.items():
            run.log(step=n, control_error=value)
        if {100, 400} <= by_control.keys():
            run.log(control_ratio=by_control[100] / by_control[400])
        run.log(error_huber_30=error("outliers_30"), error_squares_30=error("outliers_30", threshold=float("inf")))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Meshes, errors by frame, noise and outliers, and the ablations."""
    yield from tracking_figures.figures(records)
