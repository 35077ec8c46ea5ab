"""The shape annotations of public functions hold: jaxtyping checks them at run time in every test.

Inside ``pytest.raises`` the check steps aside: there a test hands over bad input on purpose, and what is tested is the
function's own error at the door, which is what a user sees.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import pytest

sys.path.insert(0, str(Path(__file__).parent / "tests"))


def _modules() -> list[str]:
    """Every module of the packages but core's and those that numba compiles (it cannot compile a checked function)."""
    found = []
    for source in sorted(Path(__file__).parent.glob("packages/*/src")):
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            if parts[1] != "core" and path.name != "__init__.py" and "njit" not in path.read_text():
                found.append(".".join(parts))
    return found


_HOOK = jaxtyping.install_import_hook(_modules(), "typechecker.typecheck")
_raises = pytest.raises


@contextmanager
def _unchecked():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


class _Raises:
    """``pytest.raises`` with the shape check off inside."""

    def __init__(self, *arguments, **options):
        self._context = _raises(*arguments, **options)
        self._off = _unchecked()

    def __enter__(self):
        self._off.__enter__()
        return self._context.__enter__()

    def __exit__(self, *exception):
        self._off.__exit__(None, None, None)
        return self._context.__exit__(*exception)


pytest.raises = lambda *a, **k: _raises(*a, **k) if len(a) > 1 else _Raises(*a, **k)
