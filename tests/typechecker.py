"""The run-time checker behind jaxtyping in the tests: shapes and dtypes of arrays, as the annotations promise them.

Other types are mypy's business; at run time an ``int`` may well be a NumPy integer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from beartype import beartype

_SHAPED = re.compile(r"\b(Shaped|Num|Inexact|Real|Float\d*|Complex\d*|Integer|Int\d*|UInt\d*|Bool)\[")


def typecheck(function: Callable) -> Callable:
    """``beartype``, for the arguments and results that are annotated with shapes."""
    annotations = getattr(function, "__annotations__", {})
    if getattr(function, "__name__", "") == "__init__":  # containers convert what they are given: arrays, lists, None
        annotations = {}
    function.__annotations__ = {k: v if _SHAPED.search(str(v)) else Any for k, v in annotations.items()}
    return beartype(function)
