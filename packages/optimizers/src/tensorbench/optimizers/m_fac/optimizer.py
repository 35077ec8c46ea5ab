"""Descent along F⁻¹g, F the damped empirical Fisher matrix of the last gradients of batches (the M-FAC optimizer).

Frantar, Kurtic and Alistarh (2021), *M-FAC*, arXiv 2107.03356. With g the gradient of a batch plus ``weight_decay``
times the weights (not decoupled, as in the authors' program), the window takes in g and then

    p = F⁻¹g,     v ← μv + (1 - μ)p,     w ← w - ηv.

The paper trains ResNet-20 with ngrads = 512, λ = 1e-5, weight decay 3e-3, batches of 128.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base import Check, Optimizer, check_gradients, checked_loss, nonnegative, positive, share, whole
from ..flat import flatten, unflatten
from .dynamic import DynamicMFAC


class MFAC(Optimizer):
    """See the module's text.

    Args:
        lr: step size η, may differ between parameter groups.
        ngrads: gradients in the window; memory is ``ngrads`` times the model's.
        damp: λ.
        momentum: μ in [0, 1).
        weight_decay: added to the gradient.
        sparse: weights that are exactly zero at the start stay so, and take no part in the window.
        device: where the window lives; the model's by default.

    Raises:
        ValueError: hyperparameters out of range, all weights zero under ``sparse``; in ``step`` missing, sparse,
            complex or non-finite gradients. Nothing has changed then.
    """

    checks: ClassVar[Mapping[str, Check]] = {"lr": positive, "weight_decay": nonnegative}

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, ngrads: int = 1024, damp: float = 1e-5, momentum: float = 0.0,
        weight_decay: float = 0.0, sparse: bool = False, device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        whole("ngrads", ngrads)
        positive("damp", damp)
        share("momentum", momentum)
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.momentum = momentum
        weights = flatten([p.detach() for p in self._all()])
        self.live = weights.nonzero()[:, 0] if sparse else None
        length = weights.numel() if self.live is None else self.live.numel()
        if not length:
            raise ValueError("all weights are zero, so sparse=True leaves nothing to train")
        where = weights.device if device is None else torch.device(device)
        self.window = DynamicMFAC(ngrads, length, damp, weights.dtype, where)
        self.velocity = torch.zeros(length, dtype=weights.dtype, device=where) if momentum else None

    def _all(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; a closure is called once, as torch's optimizers do."""
        loss = None if closure is None else checked_loss(closure)
        params = self._all()
        check_gradients(params)
        gradients = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.requires_grad:
                    g = torch.zeros_like(p) if p.grad is None else p.grad
                    gradients.append(g.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else g)
        g = flatten(gradients)
        kept = (g if self.live is None else g[self.live]).to(self.window.grads.device)
        direction = self.window.update_mul(kept)
        if self.velocity is not None:
            direction = self.velocity.lerp_(direction, 1 - self.momentum)
        direction = direction.to(g.device)
        if self.live is not None:
            direction = torch.zeros_like(g).index_copy_(0, self.live, direction)
        pieces = iter(unflatten(direction, params))
        for group in self.param_groups:
            own = [p for p in group["params"] if p.requires_grad]
            if own:
                torch._foreach_add_(own, [next(pieces) for _ in own], alpha=-group["lr"])
        return loss

    def state_dict(self) -> dict[str, Any]:
        """torch's, with the window, the velocity and, under ``sparse``, which weights are trained."""
        own = {
            "window": self.window.state_dict(),
            "velocity": None if self.velocity is None else self.velocity.clone(),
            "live": None if self.live is None else self.live.clone(),
            "shapes": [tuple(p.shape) for p in self._all()],
        }
        return {**super().state_dict(), "m_fac": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``.

        Raises:
            ValueError: another model, window, or only one of the two has momentum or is sparse. Nothing has changed.
        """
        own = state_dict["m_fac"]
        if (own["velocity"] is None) != (self.velocity is None):
            raise ValueError("one of the two optimizers has momentum and the other has none")
        if (own["live"] is None) != (self.live is None):
            raise ValueError("one of the two optimizers is sparse and the other is not")
        shapes = [tuple(p.shape) for p in self._all()]
        if [tuple(shape) for shape in own["shapes"]] != shapes:
            raise ValueError(f"this state is of another model: it has parameters {own['shapes']}, this one {shapes}")
        self.window.check_size(own["window"])
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.window.load_state_dict(own["window"])
        if self.velocity is not None:
            self.velocity.copy_(own["velocity"])
        if self.live is not None:
            self.live = own["live"].to(self.live.device, copy=True)
