"""Extreme eigenvalues of matrices with the noise of a batch: of the random-matrix model, and of a real network.

``spiked_noise`` draws the model. A spike counts where its λ is at least 1.5 s; ``spike_error`` is the worst relative
error of the mean over draws, of any spike at any batch size; ``edge_error`` that of the lowest eigenvalue against -2s
and of the first one behind the spikes that stick out against 2s; ``overlap_error`` the worst difference of the mean
squared overlaps.

``batch_hessian`` trains a perceptron and takes exact Hessians, of all data and of batches drawn without replacement.
The step is the batch size; ``shift`` is logged up to 256 samples. ``excess_over_theory`` is the geometric mean of shift
over s²/λ₁, the shift that independent noise of the measured Pσ² would make.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.optimizers.autodiff import full_hessian, objective
from tensorbench.optimizers.flat import trainable
from tensorbench.optimizers.hessian_noise import hessian_noise
from tensorbench.optimizers.lr_batch_size import critical_batch
from tensorbench.optimizers.random_matrices import (
    batch_eigenvalue,
    bulk_edge,
    noise_variance,
    semicircle_pdf,
    spike_overlap,
    spiked_wigner,
)
from tensorbench.optimizers.tasks import images

STANDS_OUT = 1.5  # in units of s
CLAIMED = 256  # samples; beyond, a batch is nearly half of the data


def spiked_noise(run: Run) -> None:
    """The random-matrix model."""
    data, options, rng = run.dataset.load(run.seed), run.method.params, run.rng
    P, spikes = data.parameters, np.sort(data.spikes)[::-1]
    errors: dict[str, list[float]] = {"spike": [0.0], "edge": [], "overlap": [0.0]}
    with run.time("fit"):
        for b in run.progress(options["batches"], desc="batch sizes"):
            s = math.sqrt(noise_variance(data.P_sigma2, b))
            outside = int((spikes > s).sum())
            top, low, overlaps = [], [], []
            for _ in range(options["draws"]):
                matrix = spiked_wigner(P, list(spikes), math.sqrt(data.P_sigma2 / P), b, rng)
                values, vectors = scipy.linalg.eigh(matrix, subset_by_index=[P - len(spikes) - 1, P - 1])
                top.append(values[::-1])
                overlaps.append([vectors[k, -1 - k] ** 2 for k in range(len(spikes))])
                low.append(scipy.linalg.eigvalsh(matrix, subset_by_index=[0, 0])[0])
            mean, overlap = np.mean(top, axis=0), np.mean(overlaps, axis=0)
            edge = bulk_edge(data.P_sigma2, b)
            errors["edge"] += [abs(-np.mean(low) - edge) / edge, abs(mean[outside] - edge) / edge]
            for k, lam in enumerate(spikes):
                theory = batch_eigenvalue(lam, data.P_sigma2, b)
                run.log(step=b, **{f"seen_{k}": mean[k], f"overlap_{k}": overlap[k]})
                if lam >= STANDS_OUT * s:
                    errors["spike"].append(abs(mean[k] - theory) / theory)
                    errors["overlap"].append(abs(overlap[k] - spike_overlap(lam, data.P_sigma2, b)))
    run.log(**{f"{name}_error": max(found) for name, found in errors.items()})


def batch_hessian(run: Run) -> None:
    """Exact Hessians of a small network."""
    options, g = run.method.params, run.generator
    data = images.prepare(run.dataset.load(run.seed), dtype=torch.float64)
    model = images.perceptron(g, options["widths"], "tanh").double()
    optimizer = torch.optim.SGD(model.parameters(), lr=options["lr"], momentum=0.9)
    fit(model, images.batches(data.train, g), images.loss, optimizer, steps=options["steps"])
    params, samples = trainable(model), len(data.train[0])

    def hessian(chosen: torch.Tensor) -> torch.Tensor:
        batch = (data.train[0][chosen], data.train[1][chosen])
        return full_hessian(objective(model, images.loss, batch), params)

    with run.time("fit"):
        full = hessian(torch.arange(samples))
        spectrum = torch.linalg.eigvalsh(full)
        lowest, largest = float(spectrum[0]), float(spectrum[-1])
        noise = hessian_noise(model, images.loss, data.train, options["probes"], g)
        rows, spectra, from_batches = [], {"full": spectrum.numpy()}, []
        for b in run.progress(options["batches"], desc="batch sizes"):
            ends = []
            for draw in range(options["draws"]):
                matrix = hessian(torch.randperm(samples, generator=g)[:b])
                values = torch.linalg.eigvalsh(matrix)
                ends.append((float(values[-1]), float(values[0])))
                difference = float((matrix - full).square().sum()) / len(full)
                from_batches.append(difference / noise_variance(1.0, b, samples))
                if draw == 0:
                    spectra[f"b{b}"] = values.numpy()
            top, low = np.mean(ends, axis=0)
            rows.append((b, top, low))
            run.log(step=b, batch_max=top, batch_min=-low, theory_max=_theory(largest, noise.value, b, samples))
            if b <= CLAIMED:
                run.log(step=b, shift=top - largest)
    claimed = [row for row in rows if row[0] <= CLAIMED]
    ratios = [
        math.log(max(top - largest, 1e-12) / (_theory(largest, noise.value, b, samples) - largest))
        for b, top, _ in claimed
    ]
    run.log(
        full_max=largest,
        full_min=lowest,
        P_sigma2=noise.value,
        P_sigma2_error=noise.error,
        P_sigma2_of_batches=float(np.mean(from_batches)),
        critical_batch=critical_batch(largest, noise.value),
        excess_over_theory=math.exp(float(np.mean(ratios))),
        largest_exceeds=all(top > largest for _, top, _ in claimed),
        largest_falls=all(a[1] > b[1] for a, b in itertools.pairwise(claimed)),
        lowest_below=all(low < lowest for _, _, low in claimed),
    )
    if run.seed == 0:
        np.savez_compressed(run.artifact("spectra.npz"), P_sigma2=noise.value, samples=samples, **spectra)


def _theory(lam: float, P_sigma2: float, b: int, samples: int) -> float:
    """λ + s²/λ, also where the spike is below s."""
    return lam + noise_variance(P_sigma2, b, samples) / lam


METHODS = {"spiked_noise": spiked_noise, "batch_hessian": batch_hessian}


def run(run: Run) -> None:
    """Draw and compare."""
    METHODS[run.method.uses](run)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Eigenvalues against the batch size, and whole spectra."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=7.4)
    _model(left, records[records["method"] == "spiked_noise"] if len(records) else records)
    _network(right, records[records["method"] == "batch_hessian"] if len(records) else records)
    yield "shifts", fig
    yield "densities", _densities(records)


def _model(ax, records: pd.DataFrame) -> None:
    if records.empty:
        return plotting.empty(ax)
    spikes = sorted(records["dataset.spikes"].iloc[0], reverse=True)
    P_sigma2 = float(records["dataset.P_sigma2"].iloc[0])
    plotting.log_axis(ax, "xy")
    b = np.geomspace(1, 1000, 200)
    s = np.sqrt(P_sigma2 / b)
    looks = plotting.styles([f"λ = {lam:g}" for lam in spikes])
    for k, (lam, look) in enumerate(zip(spikes, looks.values(), strict=True)):
        seen = rec.history(records, f"seen_{k}")
        mean = seen.groupby("step")["value"].mean()
        ax.plot(mean.index, mean, color=look["color"], marker=look["marker"], linestyle="none", label=look["label"])
        curve = lam + s**2 / lam
        ax.plot(b[lam > s], curve[lam > s], color=look["color"], linewidth=1)
    ax.plot(b, 2 * s, color="#666666", linewidth=0.9, linestyle=":", label="edge 2s")
    ax.set(xlabel="batch size b", ylabel="eigenvalue of the noisy matrix", title="model")
    ax.set_ylim(0.1, 9)
    plotting.legend(ax, loc="lower left")


def _network(ax, records: pd.DataFrame) -> None:
    if records.empty:
        return plotting.empty(ax)
    plotting.log_axis(ax, "x", ticks=(4, 16, 64, 256))
    plotting.log_axis(ax, "y")
    names = {"batch_max": "largest", "batch_min": "lowest, sign changed", "theory_max": r"$\lambda_1 + s^2/\lambda_1$"}
    looks = plotting.styles(names.values())
    for metric, text in names.items():
        points = rec.history(records, metric).assign(curve=text)
        plotting.series(ax, points, "step", "value", by=None)
        line = ax.lines[-1]
        look = looks[text] | ({"linestyle": ":", "marker": ""} if metric == "theory_max" else {})
        line.set(color=look["color"], marker=look["marker"], linestyle=look["linestyle"], label=text)
        if len(ax.collections):
            ax.collections[-1].set_facecolor(look["color"])
    largest, lowest = float(records["full_max"].mean()), -float(records["full_min"].mean())
    plotting.reference(ax, y=largest)
    ax.annotate("largest, all data", (1, largest), xycoords=("axes fraction", "data"), xytext=(-2, -3), ha="right",
                va="top", textcoords="offset points", color="#444444", fontsize=7.5)  # fmt: skip
    if lowest > 0:
        plotting.reference(ax, y=lowest, text="lowest, all data")
        ax.set_ylim(bottom=lowest / 3)
    ax.set(xlabel="batch size b", ylabel="eigenvalue of the Hessian", title="perceptron on digits")
    plotting.legend(ax, loc=(0.02, 0.16))


def _densities(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(height=7)
    kept = rec.artifacts(records, "spectra.npz") if len(records) else records
    if not len(kept):
        plotting.empty(ax)
        return fig
    with np.load(kept["path"].iloc[0]) as stored:
        spectra = {name: stored[name] for name in stored.files}
    P_sigma2, samples = float(spectra.pop("P_sigma2")), int(spectra.pop("samples"))
    shown = {"b4": "b = 4", "b64": "b = 64", "full": "all data"}
    shown = {name: text for name, text in shown.items() if name in spectra} or {k: k for k in spectra}
    ends = [min(spectra[k].min() for k in shown), max(spectra[k].max() for k in shown)]
    bins = np.linspace(ends[0], ends[1], 61)
    for (name, text), look in zip(shown.items(), plotting.styles(shown.values()).values(), strict=True):
        ax.hist(spectra[name], bins=bins, histtype="step", color=look["color"], linewidth=1.2, label=text)
    edge = bulk_edge(P_sigma2, 4, samples)
    x = np.linspace(-edge, edge, 400)
    law = semicircle_pdf(x, edge) * len(spectra["full"]) * (bins[1] - bins[0])
    ax.fill_between(x, np.maximum(law, 0.5), 0.5, color="#BBBBBB", alpha=0.5, linewidth=0, label="semicircle, b = 4")
    ax.set_yscale("log")
    ax.set(xlabel="eigenvalue", ylabel="number of eigenvalues")
    ax.set_ylim(bottom=0.5)
    plotting.legend(ax, loc="upper right")
    return fig
