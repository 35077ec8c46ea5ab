"""Which derivatives a jet with several directions reads out, and which jet isolates a mixed partial derivative.

Put direction v_l into slot l of a K-jet (x; …, v_l, …) (derivative convention: v_l is the l-th derivative of the input
curve). By Faa di Bruno's formula its n-th read-out is a sum over the integer partitions of n into used slots,

    J_n = Σ n! / Π_l (l!^{m_l} m_l!) · D^{|m|} f (v_l repeated m_l times),        n = Σ l m_l

(Shi, Hu, Lin, Kawaguchi, *Stochastic Taylor Derivative Estimator*, 2024, arXiv 2412.00088). Where several partitions
of n exist, the read-out is contaminated: the derivative looked for has to be separated from the others by known
values of these. A given derivative of distinct directions stands in one read-out of a jet alone, n = Σ l m_l, so that
the correction always comes from another jet.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

Slots = Mapping[int, int]  # slot -> coordinate
MultiIndex = tuple[int, ...]  # the coordinates of a partial derivative in rising order: (0, 0, 1) is u_xxy


def partitions(order: int, slots: Sequence[int]) -> Iterator[dict[int, int]]:
    """Every way to write ``order`` as Σ slot · count, as {slot: count}."""
    slots = sorted(set(slots), reverse=True)
    if order == 0:
        yield {}
    if not slots or order <= 0:
        return
    largest, rest = slots[0], slots[1:]
    for count in range(order // largest, -1, -1):
        for other in partitions(order - count * largest, rest) if rest or count * largest == order else ():
            yield ({largest: count} if count else {}) | other


def jet_coefficients(slots: Sequence[int], order: int) -> dict[tuple[int, ...], int]:
    """The terms of read-out ``order`` of a jet whose used slots are ``slots``: {slots of the directions: coefficient}.

    >>> jet_coefficients((1, 2), 4)
    {(2, 2): 3, (1, 1, 2): 6, (1, 1, 1, 1): 1}
    """
    if order < 1:
        raise ValueError(f"order {order} is no read-out of a jet; the first is 1")
    if not slots or min(slots) < 1:
        raise ValueError(f"slots {tuple(slots)} must be whole numbers from 1, at least one of them")
    return {
        tuple(sorted(itertools.chain.from_iterable([slot] * count for slot, count in found.items()))): _count(
            found, order
        )
        for found in partitions(order, slots)
    }


def _count(partition: Mapping[int, int], order: int) -> int:
    below = math.prod(math.factorial(slot) ** count * math.factorial(count) for slot, count in partition.items())
    return math.factorial(order) // below


@dataclass(frozen=True)
class ReadOut:
    """∂f = (J_order - Σ coefficient · correction) / coefficient, of the jet with these directions in its slots."""

    target: MultiIndex
    slots: tuple[tuple[int, int], ...]  # (slot, coordinate)
    order: int
    coefficient: int
    corrections: tuple[tuple[MultiIndex, int], ...] = ()


def read_out(target: Sequence[int], slots: Slots, known: Sequence[Sequence[int]] = ()) -> ReadOut:
    """How the jet with coordinate ``slots[l]`` in slot l gives the partial derivative ``target``.

    Args:
        target: coordinates of the derivative, (0, 0, 1) for u_xxy.
        known: derivatives whose values are at hand to be subtracted.

    Raises:
        ValueError: the read-out contains other derivatives that are not ``known``, or a coordinate has no slot.
    """
    wanted = tuple(sorted(target))
    place = {coordinate: slot for slot, coordinate in slots.items()}
    if not wanted:
        raise ValueError("the target has no coordinate; the value of f is the jet's primal")
    if missing := set(wanted) - place.keys():
        raise ValueError(f"coordinates {sorted(missing)} have no slot in {dict(slots)}")
    order = sum(place[coordinate] for coordinate in wanted)
    allowed = {tuple(sorted(other)) for other in known}
    terms: Counter[MultiIndex] = Counter()
    for found in partitions(order, list(slots)):
        terms[tuple(sorted(slots[slot] for slot, count in found.items() for _ in range(count)))] += _count(found, order)
    others = {term: count for term, count in terms.items() if term != wanted}
    if unknown := [term for term in others if term not in allowed]:
        shown = ", ".join(f"{others[term]} × {term}" for term in unknown)
        raise ValueError(
            f"read-out {order} of the jet with slots {dict(slots)} is {terms[wanted]} × {wanted} plus {shown}; "
            "subtract these (known=…) or take other slots (find_jet finds some)"
        )
    return ReadOut(wanted, tuple(sorted(slots.items())), order, terms[wanted], tuple(sorted(others.items())))


def find_jet(target: Sequence[int], *, corrections: bool = False, largest: int = 24) -> ReadOut:
    """The jet of lowest order that isolates a mixed partial derivative.

    With ``corrections`` it may also subtract derivatives along one coordinate, which a plain jet reads out: u_xxxy
    takes order 11 in isolation (x in slot 2, y in slot 5), and order 6 (slots 1 and 3) less u_xxxxxx and 10 u_yy. What
    has to be subtracted is in ``corrections``.

    Raises:
        ValueError: none up to order ``largest``.
    """
    wanted = tuple(sorted(target))
    counts = Counter(wanted)
    if not wanted:
        raise ValueError("the target has no coordinate; the value of f is the jet's primal")
    if len(counts) == 1:
        return read_out(wanted, {1: wanted[0]})
    best: ReadOut | None = None
    for places in itertools.permutations(range(1, largest + 1), len(counts)):
        order = sum(slot * count for slot, count in zip(places, counts.values(), strict=True))
        if order > (largest if best is None else best.order - 1):
            continue
        known = [(c,) * n for c in counts for n in range(1, order + 1)] if corrections else []
        try:
            best = read_out(wanted, dict(zip(places, counts, strict=True)), known)
        except ValueError:
            continue
    if best is None:
        raise ValueError(f"no jet up to order {largest} isolates {wanted}; use corrections=True")
    return best


def cost(slots: Sequence[int], order: int) -> float:
    """About what a jet costs, in passes of a point through the linear layers: one for the primal and for each
    coefficient that is not zero, and a tenth of one for each product of two coefficients in an elementwise
    function."""
    reached = {0}
    for k in range(1, order + 1):
        if any(k - slot in reached for slot in slots):
            reached.add(k)
    products = sum(1 for k in reached for j in reached if j and k - j in reached)
    return len(reached) + 0.1 * products


def plan(targets: Sequence[Sequence[int]], largest: int = 16) -> dict[MultiIndex, ReadOut]:
    """Read-outs for several partial derivatives, and for what has to be subtracted from them, from jets that cost
    little.

    Greedy: derivatives of high order choose first; each takes the jet that adds least, one that is there already for
    nothing.
    """
    return dict(_plan(tuple(sorted({tuple(sorted(target)) for target in targets})), largest))


@lru_cache(maxsize=256)
def _plan(targets: tuple[MultiIndex, ...], largest: int) -> dict[MultiIndex, ReadOut]:
    found: dict[MultiIndex, ReadOut] = {}
    orders: dict[tuple[tuple[int, int], ...], int] = {}
    waiting = sorted(targets, key=lambda t: (-len(t), -len(set(t)), t))
    while waiting:
        target = waiting.pop(0)
        if target in found:
            continue
        ways = list(_ways(target, orders, largest)) or [find_jet(target, corrections=True)]
        best = min(ways, key=lambda way: (_added(way, orders), way.order))
        found[target] = best
        orders[best.slots] = max(orders.get(best.slots, 0), best.order)
        waiting = [*(term for term, _ in best.corrections), *waiting]
    return found


def _added(way: ReadOut, orders: Mapping[tuple[tuple[int, int], ...], int]) -> float:
    """What a read-out and its corrections add to the cost of the jets that are there."""
    needed = {way.slots: way.order}
    for term, _ in way.corrections:
        plain = ((1, term[0]),)
        needed[plain] = max(needed.get(plain, 0), len(term))
    total = 0.0
    for slots, order in needed.items():
        there = orders.get(slots, 0)
        if order > there:
            places = [slot for slot, _ in slots]
            total += cost(places, order) - (cost(places, there) if there else 0.0)
    return total


def _ways(target: MultiIndex, orders: Mapping[tuple[tuple[int, int], ...], int], largest: int) -> Iterator[ReadOut]:
    """Read-outs of ``target`` from jets that are there and from new ones in its own coordinates."""
    counts = Counter(target)
    jets = [dict(slots) for slots in orders]
    jets += [dict(zip(places, counts, strict=True)) for places in itertools.permutations(range(1, largest), len(counts))
             if sum(slot * n for slot, n in zip(places, counts.values(), strict=True)) <= largest]  # fmt: skip
    for slots in jets:
        known = [(c,) * n for c in slots.values() for n in range(1, largest + 1) if (c,) * n != target]
        with contextlib.suppress(ValueError):
            yield read_out(target, slots, known)
