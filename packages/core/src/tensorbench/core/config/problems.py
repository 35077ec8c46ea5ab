"""Every mistake of every config in one message: the file, the key, what is wrong and what was probably meant."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from tensorbench.core.errors import unknown


class ConfigError(ValueError):
    """The configs are wrong; the message lists every problem found, one a line."""


@dataclass
class Problems:
    """Collects problems as ``file: key: message`` lines and raises them together."""

    lines: list[str] = field(default_factory=list)

    def add(self, file: Any, key: str, message: str) -> None:
        self.lines.append(f"{file}: {key}: {message}" if key else f"{file}: {message}")

    def add_validation(self, file: Any, model: type[BaseModel], error: ValidationError) -> None:
        for item in error.errors():
            path = [part for part in item["loc"]]
            key = _key(path)
            if item["type"] == "extra_forbidden":
                message = unknown("key", str(path[-1]), _fields_at(model, path[:-1]))
            elif item["type"] == "missing":
                message = "this key is required"
            elif item["type"] == "string_pattern_mismatch":
                message = f"{item['input']!r} is not a name; use letters, digits, '.', '_' and '-'"
            else:
                message = item["msg"].removeprefix("Value error, ")
                given = item.get("input")
                if item["type"] != "value_error" and isinstance(given, str | int | float | bool | type(None)):
                    message += f" (given: {given!r})"
            self.add(file, key, message)

    def raise_if_any(self) -> None:
        if self.lines:
            count = len(self.lines)
            head = "1 problem" if count == 1 else f"{count} problems"
            raise ConfigError(f"{head} in the configs:\n  " + "\n  ".join(self.lines))


def _key(path: list[Any]) -> str:
    """``claims[2].ratio.at_most``; pydantic's tags for unions and checked keys say nothing to a reader."""
    key = ""
    for part in path:
        text = str(part)
        if text == "[key]" or "[" in text or text.startswith(("function-", "lax-or", "literal")):
            continue
        key += f"[{part}]" if isinstance(part, int) else (f".{part}" if key else text)
    return key


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, dict, tuple, typing.Annotated):
        return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
    return []


def _fields_at(model: type[BaseModel], path: list[Any]) -> list[str]:
    """The fields that are valid where ``path`` leads, for the nearest-name hint."""
    current = model
    for part in path:
        info = current.model_fields.get(str(part))
        nested = _models_in(info.annotation) if info is not None else []
        if nested:
            current = nested[0]
    return list(current.model_fields)
