"""Error messages that teach: what was given, what is allowed, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to ``name``, or None when nothing is similar."""
    match = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return match[0] if match else None


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """``unknown method 'cp_sla'; did you mean 'cp_als'? valid: cp_als, funbat``."""
    names = sorted(map(str, valid))
    guess = nearest(name, names)
    hint = f"; did you mean {guess!r}?" if guess else ""
    shown = ", ".join(names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    return f"unknown {kind} {name!r}{hint} (valid: {shown or 'none'})"
