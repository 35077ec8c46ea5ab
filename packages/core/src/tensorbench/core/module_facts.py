"""What an experiment module offers, read from its source without importing it (imports of torch cost seconds)."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModuleFacts:
    """Top-level functions of a module and, where it has a literal ``METHODS`` dict, the method names in it."""

    functions: frozenset[str]
    methods: frozenset[str] | None


def _string_keys(node: ast.expr) -> frozenset[str] | None:
    if not isinstance(node, ast.Dict):
        return None
    keys = [key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return frozenset(keys) if len(keys) == len(node.keys) else None


def read_module(path: Path) -> ModuleFacts:
    """Facts of the module at ``path``; ValueError when it is missing or does not parse."""
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"), filename=str(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such module; an experiment is one YAML file and one module") from error
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
    functions: set[str] = set()
    methods: frozenset[str] | None = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "METHODS" for target in targets):
                methods = _string_keys(node.value)
        elif isinstance(node, ast.ImportFrom):
            functions.update(alias.asname or alias.name for alias in node.names)
    return ModuleFacts(frozenset(functions), methods)
