"""Libraries that only comparisons need are imported where they are used, so that the package works without them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PEERS = {"deepxde", "folx", "gpytorch", "jax", "mpmath", "neuralop", "pde", "tltorch"}
ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for folder in ("src", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def at_import(body: list[ast.stmt]) -> set[str]:
    """Top-level names of modules that are imported when the file is, also under conditions."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "handlers", "finalbody"):
                found |= at_import(getattr(node, name, []))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_peers_are_imported_where_they_are_used(path):
    assert not at_import(ast.parse(path.read_text()).body) & PEERS
