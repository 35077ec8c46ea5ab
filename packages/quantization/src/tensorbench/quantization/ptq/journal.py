"""Every configuration that a search evaluated, in memory and on disk, so that an interrupted search can go on.

The file is JSON and written whole after each evaluation (to a temporary name, then renamed). A search is deterministic
given its accuracies: started again with the same journal, it walks the same path and asks for nothing twice.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Evaluate = Callable[[Config], float]


@dataclass(frozen=True)
class Evaluation:
    config: Config
    accuracy: float


class Journal:
    """Calls ``evaluate`` for what it does not know yet and remembers the answer.

    Args:
        path: where to keep it; an existing file is read. None keeps it in memory.
        about: what the accuracies depend on (model, data, seed); a file that says otherwise is refused.

    Raises:
        ValueError: a file that is no journal, or that is about something else.
    """

    def __init__(self, path: str | Path | None = None, about: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.about = json.loads(json.dumps(dict(about or {})))
        self._known: dict[tuple, Evaluation] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            entries = [Evaluation(dict(config), float(accuracy)) for config, accuracy in stored["evaluations"]]
            about = stored["about"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no journal of a search ({error}); remove it or name another file") from error
        if about != self.about:
            raise ValueError(f"{path} is about {about}, not {self.about}; name another file")
        self._known = {key(entry.config): entry for entry in entries}

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """In the order in which they were made."""
        return tuple(self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, config: Mapping[str, Any], evaluate: Evaluate) -> float:
        """The accuracy of ``config``.

        Raises:
            ValueError: ``evaluate`` returned something that is not one finite number.
        """
        config = dict(config)
        if key(config) not in self._known:
            self._known[key(config)] = Evaluation(config, _scalar(evaluate(config)))
            self._write()
        return self._known[key(config)].accuracy

    def _write(self) -> None:
        if self.path is None:
            return
        text = json.dumps(
            {"about": self.about, "evaluations": [[e.config, e.accuracy] for e in self._known.values()]}, indent=1
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


def key(config: Mapping[str, Any]) -> tuple:
    """A config as a dictionary key, whatever the order of its layers."""
    return tuple(sorted(config.items()))


def _scalar(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"evaluate must return one number, got {type(value).__name__} {value!r:.60}") from error
    if not math.isfinite(number):
        raise ValueError(f"evaluate returned {number}; an accuracy must be finite")
    return number
