"""Area and energy from counts of gates and of their toggles: a table that a user can replace.

The areas are those of the smallest drive of the NanGate 45 nm open cell library. The energies are nominal: in
proportion to the area (1.5 fJ a µm² and toggle of an output, half of that for the two outputs of an adder), 2 fJ a
register and clock cycle, 2.5 fJ a toggle and multiplier that a broadcast wire reaches. Ratios of designs are what
they are for; leakage, drive strength, placement and timing are not modelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tensorbench.core.errors import unknown


class GateCost(NamedTuple):
    """Area in µm², energy of one toggle of one output and of one clock cycle in fJ."""

    area: float
    toggle: float
    clock: float = 0.0


_AREAS = {
    "INV": 0.532, "BUF": 0.798, "NAND2": 0.798, "NOR2": 0.798, "AND2": 1.064, "OR2": 1.064, "XOR2": 1.596,
    "XNOR2": 1.596, "ANDN2": 1.330, "ORN2": 1.330, "MUX2": 1.862, "HA": 2.660, "FA": 4.256, "DFF": 4.522,
}  # fmt: skip
_FJ_PER_AREA = 1.5
UNIT_GATES: dict[str, GateCost] = {
    name: GateCost(area, area * _FJ_PER_AREA * (0.5 if name in ("HA", "FA") else 1.0), 2.0 if name == "DFF" else 0.0)
    for name, area in _AREAS.items()
} | {"WIRE": GateCost(0.0, 2.5)}


@dataclass(frozen=True)
class Activity:
    """What a piece of work did: toggles by (part, gate), and register-cycles by part; of ``cycles`` cycles and ``macs``
    wanted products."""

    toggles: Counter[tuple[str, str]]
    clocked: Counter[str]
    cycles: int
    macs: int

    def __add__(self, other: Activity) -> Activity:
        return Activity(
            self.toggles + other.toggles,
            self.clocked + other.clocked,
            self.cycles + other.cycles,
            self.macs + other.macs,
        )


@dataclass(frozen=True)
class GateModel:
    """Costs by gate. ``table`` replaces or adds entries of ``UNIT_GATES``; ``clock_hz`` turns cycles into time.

    Raises:
        ValueError: an unknown gate, a negative cost, or a clock that is not positive.
    """

    table: Mapping[str, GateCost] = field(default_factory=dict)
    clock_hz: float = 500e6

    def __post_init__(self) -> None:
        for name, cost in self.table.items():
            if name not in UNIT_GATES:
                raise ValueError(unknown("gate", name, UNIT_GATES))
            if min(cost) < 0:
                raise ValueError(f"the costs of {name} are not negative, got {tuple(cost)}")
        if not self.clock_hz > 0:
            raise ValueError(f"a clock of {self.clock_hz} Hz; it must be positive")
        object.__setattr__(self, "table", UNIT_GATES | {k: GateCost(*v) for k, v in self.table.items()})

    def scaled(self, gate: str, factor: float) -> GateModel:
        """The model with all costs of one gate multiplied. Raises ValueError for an unknown gate."""
        if gate not in self.table:
            raise ValueError(unknown("gate", gate, self.table))
        changed = GateCost(*(value * factor for value in self.table[gate]))
        return replace(self, table={**self.table, gate: changed})

    def cost(self, gate: str) -> GateCost:
        if gate not in self.table:
            raise ValueError(unknown("gate", gate, self.table))
        return self.table[gate]

    def area(self, counts: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
        """µm² by part, from counts of gates by part."""
        return {part: sum(k * self.cost(gate).area for gate, k in gates.items()) for part, gates in counts.items()}

    def energy(self, activity: Activity) -> dict[str, float]:
        """fJ by part; the clock's share is the part ``clock``."""
        out: dict[str, float] = {}
        for (part, gate), count in activity.toggles.items():
            out[part] = out.get(part, 0.0) + count * self.cost(gate).toggle
        out["clock"] = sum(activity.clocked.values()) * self.cost("DFF").clock
        return out


@dataclass(frozen=True)
class Report:
    """Figures of merit of an array on a piece of work; GOPS count a multiplication and an addition as two
    operations."""

    area_um2: float
    energy_fj: float
    cycles: int
    macs: int
    multipliers: int
    clock_hz: float

    @property
    def peak_gops(self) -> float:
        return 2 * self.multipliers * self.clock_hz / 1e9

    @property
    def gops(self) -> float:
        """Reached on this work."""
        return 2 * self.macs * self.clock_hz / self.cycles / 1e9

    @property
    def gops_per_mm2(self) -> float:
        """Peak, as hardware papers count it."""
        return self.peak_gops / (self.area_um2 / 1e6)

    @property
    def energy_per_mac_fj(self) -> float:
        return self.energy_fj / self.macs

    @property
    def gops_per_watt(self) -> float:
        return 2 / self.energy_per_mac_fj * 1e6
