"""Training a slimmable field: TensoRF's trainer with a rule that unlocks ranks between steps.

Yuan & Zhao 2024 (arXiv 2312.10034): 30 000 steps of 4096 rays with TensoRF's rates; training ends early when the PSNR
of the validation views falls from one check to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tensorbench.radiance_fields.slimmerf.field import SlimVM
from tensorbench.radiance_fields.slimmerf.ranks import RankRule
from tensorbench.radiance_fields.tensorf.schedule import Schedule
from tensorbench.radiance_fields.training import State, Trained, train

if TYPE_CHECKING:
    from tensorbench.radiance_fields.views import SceneData

_SETTLE = 50  # steps between the last increment and the mask


@dataclass
class _Follow:
    """The callback: unlocks ranks, holds the rates and the mask until there are no more to unlock."""

    rule: RankRule
    masks: list[int]
    dilate: int
    hold: bool
    restart: bool
    blocks: bool
    check_every: int | None
    best: float = -float("inf")
    full_since: int = 0

    def __call__(self, state: State) -> bool | None:
        field = state.field
        assert isinstance(field, SlimVM)
        before = self.rule.rank
        if self.rule.update(state.mse):
            field.set_rank(self.rule.rank, before if self.blocks else 0)
            if self.restart:
                state.decay.restart()
            if self.restart or self.blocks:
                state.rebuild_optimizer()
            if self.rule.rank == self.rule.maximum:
                self.full_since = state.step
        full = self.rule.rank == self.rule.maximum
        state.decay.hold = self.hold and not full
        if full and self.masks and state.step >= max(self.masks[0], self.full_since + _SETTLE):
            last = len(self.masks) == 1
            while self.masks and self.masks[0] <= state.step:
                self.masks.pop(0)
            state.update_mask(filter_rays=last, dilate=self.dilate)
        if self.check_every and state.step % self.check_every == 0:
            now = state.mean_psnr(state.data.valid)
            if now < self.best:
                return True
            self.best = now
        return None


def train_slim(
    field: SlimVM,
    data: SceneData,
    rule: RankRule,
    *,
    generator: torch.Generator,
    steps: int,
    schedule: Schedule | None = None,
    masks: Sequence[int] = (),
    dilate: int = 5,
    hold_until_full: bool = True,
    restart_rates: bool = False,
    blocks: bool = False,
    check_every: int | None = None,
    callback: Callable[[State], bool | None] | None = None,
    **options: Any,
) -> Trained:
    """Train ``field`` in place, unlocking ranks by ``rule``.

    Args:
        masks: steps after which an alpha mask is built, later if ranks are still locked: one made at a low rank would
            cut away what later components are to add.
        dilate: by how many vertices its occupied parts are widened (edge of the cube).
        hold_until_full: the learning rates fall only once all ranks are unlocked.
        restart_rates: the rates start again at each increment.
        blocks: components learn only until the next are unlocked (block coordinate descent).
        check_every: steps between checks of the validation views; training ends when their PSNR has fallen.
        options: those of :func:`~tensorbench.radiance_fields.training.train`.

    Raises:
        ValueError: a rule for another rank than the field's.
    """
    if rule.maximum != field.maximum:
        raise ValueError(f"the rule goes up to rank {rule.maximum}, the field to {field.maximum}")
    field.set_rank(rule.rank)
    follow = _Follow(rule, sorted(masks), dilate, hold_until_full, restart_rates, blocks, check_every)

    def after(state: State) -> bool | None:
        stop = follow(state)
        return (callback(state) if callback is not None else None) or stop

    plan = schedule if schedule is not None else Schedule()
    return train(field, data, generator=generator, steps=steps, schedule=plan, callback=after, **options)
