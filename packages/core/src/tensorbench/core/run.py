"""A run: one method on one dataset with one seed at one scale, and what an experiment module may ask of it.

``python -m tensorbench.core.run decomposition/completion smooth_surface funbat`` does all seeds of one method on one
dataset (see :mod:`tensorbench.core.job`).
"""

from __future__ import annotations

import logging
import math
import numbers
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tensorbench.core.config import Choice
from tensorbench.core.config.models import RESERVED

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)
T = TypeVar("T")
_METRIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_SECONDS_BETWEEN_PROGRESS_LINES = 10.0


@dataclass(frozen=True)
class Dataset(Choice):
    """The run's dataset: name, parameters, and the data itself."""

    def load(self, seed: int, **overrides: Any) -> Any:
        """What the registered loader returns for this entry's parameters and ``seed``."""
        from tensorbench.core import data

        return data.load(self.uses, seed=seed, **{**self.params, **overrides})


@dataclass
class Run:
    """What an experiment's ``run(run)`` is given. It computes and logs; where that goes is not its concern."""

    package: str
    experiment: str
    dataset: Dataset
    method: Choice
    seed: int
    scale: str
    threads: int = 1
    trial: int | None = None
    uses_gpu: bool = False
    folder: Path = field(default_factory=lambda: Path("artifacts"))
    sink: Callable[[dict[str, float], float | None], None] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    booleans: set[str] = field(default_factory=set)
    history: list[tuple[str, float, float]] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)

    @property
    def title(self) -> str:
        """``funbat · beijing_pm25 · seed 2``: the run's name in logs and in MLflow."""
        which = f"seed {self.seed}" if self.trial is None else f"trial {self.trial}"
        return f"{self.method.name} · {self.dataset.name} · {which}"

    @property
    def device(self) -> torch.device:
        """The leased GPU, or the CPU when the scale asks for none."""
        import torch

        if not self.uses_gpu:
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise RuntimeError("this run asks for a GPU but torch sees none; use --config scale=desk, or device: cpu")
        return torch.device("cuda")

    @property
    def generator(self) -> torch.Generator:
        """A fresh CPU generator seeded with the run's seed: every access starts the same stream."""
        import torch

        return torch.Generator().manual_seed(self.seed)

    @property
    def rng(self) -> np.random.Generator:
        """A fresh NumPy generator seeded with the run's seed: every access starts the same stream."""
        import numpy as np

        return np.random.default_rng(self.seed)

    def log(self, *, step: float | None = None, **metrics: Any) -> None:
        """Log metrics: final values, or with ``step`` a point of their history (whose last value is the final one).

        Values are real numbers or booleans (0-d arrays and tensors too). NaN is recorded, and no verdict is drawn from
        it. Raises TypeError or ValueError for anything else, naming the metric.
        """
        values: dict[str, float] = {}
        for name, value in metrics.items():
            if not _METRIC.fullmatch(name):
                raise ValueError(f"{name!r} is not a metric name; use letters, digits, '.', '_' and '-'")
            if name in RESERVED or name.startswith(("dataset.", "method.")):
                raise ValueError(f"{name!r} is a column of every record and no metric; call it something else")
            values[name] = _number(name, value)
            if _is_boolean(value):
                self.booleans.add(name)
            if math.isnan(values[name]):
                log.warning("%s: %s is NaN%s", self.title, name, "" if step is None else f" at step {step:g}")
        if step is not None:
            at = _number("step", step)
            self.history.extend((name, at, value) for name, value in values.items())
        self.metrics.update(values)
        if self.sink is not None and values:
            self.sink(values, None if step is None else float(step))

    @contextmanager
    def time(self, name: str = "fit") -> Iterator[None]:
        """Log wall seconds, CPU seconds and peak memory (MiB above the start) of the block as ``<name>_…``."""
        from tensorbench.core.timing import measure

        with measure() as measured:
            yield
        if not math.isnan(measured.device_peak_mib):
            self.log(**{f"{name}_device_peak_mib": measured.device_peak_mib})
        self.log(
            **{
                f"{name}_seconds": measured.seconds,
                f"{name}_cpu_seconds": measured.cpu_seconds,
                f"{name}_peak_mib": measured.peak_mib,
            }
        )

    def artifact(self, name: str) -> Path:
        """A path to write to; the file is kept beside the record and ends up in MLflow."""
        if not name or Path(name).name != name or name.startswith("."):
            raise ValueError(f"artifact {name!r}: a plain file name is expected, say 'prediction.npz'")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        if path not in self.artifacts:
            self.artifacts.append(path)
        return path

    def progress(self, iterable: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
        """Iterate with a line of progress now and then, for whoever watches the log."""
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        started = last = time.monotonic()
        for done, item in enumerate(iterable):
            yield item
            instant = time.monotonic()
            if instant - last >= _SECONDS_BETWEEN_PROGRESS_LINES:
                last = instant
                share = f"{done + 1}/{total} ({(done + 1) / total:.0%})" if total else str(done + 1)
                remaining = (
                    f", about {(instant - started) * (total - done - 1) / (done + 1):.0f} s left" if total else ""
                )
                log.info("%s: %s %s%s", self.title, desc or "step", share, remaining)


def _is_boolean(value: Any) -> bool:
    return (
        isinstance(value, bool)
        or type(value).__name__ in ("bool_", "bool")
        or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    )


def _number(name: str, value: Any) -> float:
    item = (
        value.item()
        if hasattr(value, "item") and getattr(value, "size", 1) is not None and _is_scalar(value)
        else value
    )
    if isinstance(item, numbers.Real):
        return float(item)
    raise TypeError(f"metric {name!r} must be a real number or a boolean, got {type(value).__name__} {value!r:.60}")


def _is_scalar(value: Any) -> bool:
    shape = getattr(value, "shape", ())
    return math.prod(shape) == 1


if __name__ == "__main__":
    import sys

    from tensorbench.core.job import main

    sys.exit(main())
