"""Matrices with a few large eigenvalues, to be seen through noise."""

from __future__ import annotations

from dataclasses import dataclass

from tensorbench.core.data import dataset


@dataclass(frozen=True)
class Spiked:
    """A matrix of ``parameters`` rows with the given eigenvalues and zeros; the samples' matrices vary by Pσ²."""

    parameters: int
    spikes: tuple[float, ...]
    P_sigma2: float


@dataset(title="A matrix with spikes in Gaussian noise", source="generated here", licence="Apache-2.0", generated=True)
def spiked_matrix(
    *, seed: int, parameters: int = 600, spikes: tuple[float, ...] = (0.3, 1.0, 2.0, 5.0), P_sigma2: float = 10.0
) -> Spiked:
    """What to draw; the noise itself depends on the batch size and is drawn where it is looked at."""
    return Spiked(parameters, tuple(spikes), P_sigma2)
