"""When to unlock the next rank: SlimmeRF's Tensorial Rank Incrementation, and schedules to compare it with.

TRaIn (Yuan & Zhao 2024, arXiv 2312.10034) goes one rank up after step i whenever the loss has just changed
fast, ``|L_{i−1} − L_i| / L_i > υ``, and the last increment is more than η steps past. L is the raw error of the batch.
The rule here is that of the reference code (train.py), which takes η in steps since the last increment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class RankRule(Protocol):
    """Decides after each step from its loss whether the rank goes up."""

    rank: int
    maximum: int

    def update(self, loss: float) -> bool:
        """Take the loss of the next step; True if the rank has changed."""
        ...


def _check(rank: int, maximum: int) -> None:
    if not 1 <= rank <= maximum:
        raise ValueError(f"the initial rank {rank} must be from 1 to the maximum {maximum}")


@dataclass
class TRaIn:
    """Tensorial Rank Incrementation.

    Args:
        maximum: the full rank.
        upsilon: the relative change of the loss that unlocks a rank; positive.
        eta: steps that must lie between increments; whole, at least 0.
        rank, increment: to begin with, and how many at a time.
        smoothing: the share of the past in an exponential mean of the losses that are compared; 0 compares batches.
    """

    maximum: int
    upsilon: float = 0.4
    eta: int = 0
    rank: int = 1
    increment: int = 1
    smoothing: float = 0.0
    step: int = -1
    last: int = 0
    previous: float = math.inf
    increments: list[tuple[int, int]] = field(default_factory=list)  # (step, new rank)

    def __post_init__(self) -> None:
        _check(self.rank, self.maximum)
        if not self.upsilon > 0:
            raise ValueError(f"upsilon {self.upsilon} is a relative change of the loss and must be positive")
        if self.eta < 0 or self.eta != int(self.eta):
            raise ValueError(f"eta {self.eta} is a number of steps: 0, 1, ...")
        if self.increment < 1 or not 0 <= self.smoothing < 1:
            raise ValueError(f"increment {self.increment} must be at least 1, smoothing {self.smoothing} in [0, 1)")

    def update(self, loss: float) -> bool:
        """Take the loss of the next step (the first is step 0 and is compared with nothing).

        Raises:
            ValueError: a loss that is no positive finite number.
        """
        if not (math.isfinite(loss) and loss > 0):
            raise ValueError(f"loss {loss} at step {self.step + 1}: training has diverged, ranks are not unlocked")
        self.step += 1
        current = loss
        if self.smoothing and math.isfinite(self.previous):
            current = self.smoothing * self.previous + (1 - self.smoothing) * loss
        changed = abs(self.previous - current) / current if self.step else 0.0
        self.previous = current
        if self.rank >= self.maximum or changed <= self.upsilon or self.step - self.last <= self.eta:
            return False
        self.rank, self.last = min(self.rank + self.increment, self.maximum), self.step
        self.increments.append((self.step, self.rank))
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "rank": self.rank, "step": self.step, "last": self.last, "previous": self.previous,
            "maximum": self.maximum, "increments": list(self.increments),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; refuses one of another full rank."""
        if state["maximum"] != self.maximum:
            raise ValueError(f"the state belongs to rank {state['maximum']}, this rule to {self.maximum}")
        self.rank, self.step, self.last = state["rank"], state["step"], state["last"]
        self.previous, self.increments = state["previous"], list(state["increments"])


@dataclass
class FixedRanks:
    """One rank more after each of these steps (counted from 0), whatever the loss does."""

    maximum: int
    at: Sequence[int]
    rank: int = 1
    step: int = -1
    increments: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check(self.rank, self.maximum)

    def update(self, loss: float) -> bool:
        """Take the loss of the next step; it is not looked at."""
        self.step += 1
        target = min(self.maximum, self.rank + sum(step == self.step for step in self.at))
        if target == self.rank:
            return False
        self.rank = target
        self.increments.append((self.step, target))
        return True


def even_ranks(maximum: int, steps: int) -> FixedRanks:
    """From one rank to all of them in even steps over so many steps."""
    return FixedRanks(maximum, [round(steps * k / (maximum - 1)) for k in range(1, maximum)] if maximum > 1 else [])


@dataclass
class AllAtOnce:
    """All ranks together after one step, or from the start (``at=None``: an ordinary TensoRF)."""

    maximum: int
    at: int | None = None
    rank: int = 1
    step: int = -1
    increments: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.at is None:
            self.rank = self.maximum
        _check(self.rank, self.maximum)

    def update(self, loss: float) -> bool:
        """Take the loss of the next step; it is not looked at."""
        self.step += 1
        if self.step != self.at or self.rank == self.maximum:
            return False
        self.rank = self.maximum
        self.increments.append((self.step, self.rank))
        return True
