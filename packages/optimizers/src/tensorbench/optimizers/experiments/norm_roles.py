"""Does a character model train better when each tensor is measured in the norm of its role?

Steepest descent with momentum under the map of roles (embeddings ℓ1 → RMS), under RMS → RMS for every matrix,
embeddings included, and under ℓ1 → RMS for every matrix, linear layers included: the norms swapped. Everything else is
the same, and each is tuned over the same learning rates. Losses are in nats a character.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.optimizers.norm_descent import SteepestDescent, role_map, spectral_map
from tensorbench.optimizers.norms import L1ToRMS, Norm, Transposed
from tensorbench.optimizers.tasks import characters

POLYNOMIAL = {"method": "polar_express", "steps": 5}


def swapped_map(model: nn.Module) -> dict[str, Norm]:
    """ℓ1 → RMS for linear layers, RMS → RMS for embeddings."""
    spectral = spectral_map(model, **POLYNOMIAL)  # type: ignore[arg-type]
    by_role = role_map(model, **POLYNOMIAL)  # type: ignore[arg-type]
    return {
        name: spectral[name] if isinstance(norm, Transposed) or model.get_parameter(name).ndim < 2 else L1ToRMS()
        for name, norm in by_role.items()
    }


METHODS: dict[str, Callable[[nn.Module], Mapping[str, Norm]]] = {
    "roles": lambda model: role_map(model, **POLYNOMIAL),  # type: ignore[arg-type]
    "spectral": lambda model: spectral_map(model, **POLYNOMIAL),  # type: ignore[arg-type]
    "swapped": swapped_map,
}


def run(run: Run) -> None:
    """Train one model; the loss on the way is the validation part's."""
    options = run.method.params
    text = run.dataset.load(run.seed)
    task = characters.task(text, run.generator, batch=options["batch"], windows=options["windows"])
    optimizer = SteepestDescent(
        task.model.named_parameters(), METHODS[run.method.uses](task.model), options["lr"], momentum=0.95, nesterov=True
    )
    with run.time("train"):
        history = fit(
            task.model, task.batches, task.loss, optimizer, steps=options["steps"], schedule="linear", warmup=0.05,
            evaluate=partial(task.evaluate, parts=("valid",)), evaluate_every=options["measure"], log=run.log,
            log_every=options["steps"],
        )  # fmt: skip
    run.log(diverged=history.diverged)
    if run.trial is None and not history.diverged:
        run.log(**task.evaluate(task.model, ("train", "test")))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Loss on the way."""
    names = list(dict.fromkeys(records["dataset"])) if len(records) else []
    fig, axes = plotting.figure(columns=2, cols=2)
    for ax in axes[max(1, len(names)) :]:
        ax.set_visible(False)
    if not names:
        plotting.empty(axes[0])
    for ax, name in zip(axes, names, strict=False):
        part = rec.history(records[records["dataset"] == name], "valid_loss")
        plotting.series(ax, part, "step", "value")
        ax.set_title(plotting.label(name))
        ax.set(xlabel="step", ylabel="validation loss (nats)")
    if names:
        plotting.legend(fig)
    yield "losses", fig
