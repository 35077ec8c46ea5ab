"""A config as a file that others can read, evaluate again and compare."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .cost import bit_operations, mean_weight_bits, model_bytes, relative
from .search import SearchResult
from .wrap import Config, QuantModel


@dataclass(frozen=True)
class Report:
    """What a config keeps and costs; costs are relative to 16 bits everywhere."""

    config: Config
    accuracy: float
    reference: float
    mean_weight_bits: float
    relative_bytes: float
    relative_bit_operations: float
    evaluations: int

    def text(self) -> str:
        """Lines to read: a summary, then a layer each."""
        lines = [
            f"accuracy {self.accuracy:.4f} ({self.accuracy / self.reference:.2%} of {self.reference:.4f}), "
            f"{self.mean_weight_bits:.2f} bits a weight, bytes x {self.relative_bytes:.3f}, "
            f"bit operations x {self.relative_bit_operations:.3f}, {self.evaluations} evaluations"
        ]
        longest = max(map(len, self.config))
        return "\n".join(lines + [f"  {name:{longest}} {bits}" for name, bits in self.config.items()])

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def report(model: QuantModel, result: SearchResult) -> Report:
    """Of what a search found."""
    layers = model.layers()
    return Report(
        {name: result.config[name] for name in model.names},
        result.accuracy,
        result.reference,
        mean_weight_bits(layers, result.config),
        relative(model_bytes, layers, result.config),
        relative(bit_operations, layers, result.config),
        result.evaluations,
    )


def load_report(path: str | Path) -> Report:
    """Raises ValueError for a file that is no report."""
    try:
        return Report(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no report of a config ({error})") from error


def evaluate_again(model: QuantModel, saved: Report, evaluate: Callable[[Mapping[str, Any]], float]) -> float:
    """Accuracy of a saved config on this model minus the accuracy in the file.

    Raises:
        ValueError: a layer or precision that this model does not have.
    """
    with model.at(saved.config):
        return evaluate(saved.config) - saved.accuracy
