"""Does a program of finite width tend to its limit? Averages of real runs against interpreted ones.

The master theorem of Yang, Littwin (2023, arXiv 2308.01814): averages over coordinates converge to the brackets of the
limit, at a rate of n^-1/2 in the cases that one meets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import torch

from tensorbench.core.claims.statistics import Interval
from tensorbench.optimizers.widths import fit_exponent

from .program import Avg, Program


def master_theorem_check(
    program: Program,
    widths: Sequence[int],
    *,
    seeds: int | Iterable[int] = 5,
    samples: int = 100_000,
    copies: int | None = 1000,
    generator: torch.Generator | None = None,
) -> pd.DataFrame:
    """A row for each width, seed and ``Avg`` of the program: ``finite``, ``limit`` and ``error``, their difference.

    Raises:
        ValueError: a program without averages.
    """
    names = [name for name, one in program.instructions.items() if isinstance(one, Avg)]
    if not names:
        raise ValueError("the program averages nothing; add an Avg of the vector that you want to compare")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    limit = program.interpret(samples, generator, copies=copies).scalars
    rows = []
    for width in widths:
        for seed in range(seeds) if isinstance(seeds, int) else seeds:
            finite = program.run(width, torch.Generator().manual_seed(seed)).scalars
            for name in names:
                values = {"finite": float(finite[name]), "limit": float(limit[name])}
                error = values["finite"] - values["limit"]
                rows.append({"width": width, "seed": seed, "average": name} | values | {"error": error})
    return pd.DataFrame(rows)


def rate(check: pd.DataFrame) -> Interval:
    """Exponent of the root mean square error (over seeds and averages) in the width; about -1/2 is expected."""
    sizes = check.assign(square=check["error"] ** 2).groupby("width")["square"].mean() ** 0.5
    return fit_exponent(sizes.index.to_numpy(dtype=float), sizes.to_numpy())
