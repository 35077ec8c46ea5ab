"""Multi-grid domain decomposition: a field cut into patches that carry coarse views of the whole as further channels.

Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution
PDEs", TMLR 2024, arXiv 2310.00120. (Details follow the reference library; of the paper the abstract was at hand.)

An N × N domain, taken as periodic, is cut into 2^levels × 2^levels patches of s = N / 2^levels points an axis, each
with a halo of round(padding · N) points of its neighbours. Level L = 1, …, levels adds the domain at every 2^L-th
point: the same number of points, now spread 2^L times as wide around the patch. A patch is a sample of its own; nothing
of another patch is needed until the outputs are stitched, so every worker can hold a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Fields = Float[Tensor, "batch channels height width"]


def patch_indices(n: int, levels: int, pad: int, level: int, device: torch.device | None = None) -> Tensor:
    """Points of one axis that each patch sees at a level, as indices (2^levels, s + 2 pad) of the fine grid."""
    patches, stride = 2**levels, 2**level
    size, coarse = n // patches, n // stride
    step = size // stride  # from a patch to the next, on the coarse grid
    before = -(-(size - step) // 2)  # so that the patch lies in the middle
    starts = torch.arange(patches, device=device) * step - before - pad
    return (starts[:, None] + torch.arange(size + 2 * pad, device=device)) % coarse * stride


def cut(
    x: Fields, rows: Tensor, columns: Tensor, numbers: Int[Tensor, " some"] | None = None
) -> Float[Tensor, "patches channels patch_height patch_width"]:
    """The patches at the given indices, one sample's after the other's, row by row; or those of the given numbers."""
    if numbers is not None:
        across = len(columns)
        sample, place = numbers // (len(rows) * across), numbers % (len(rows) * across)
        at = (rows[place // across][:, :, None], columns[place % across][:, None, :])
        return x[sample[:, None, None], :, *at].permute(0, 3, 1, 2).contiguous()
    patches = x[
        :, :, rows[:, None, :, None], columns[None, :, None, :]
    ]  # batch, channels, rows, columns, height, width
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def stitch(
    patches: Float[Tensor, "patches channels patch_height patch_width"], number: int
) -> Float[Tensor, "batch channels height width"]:
    """Put number × number patches a sample back into fields."""
    if patches.shape[0] % number**2:
        raise ValueError(
            f"{patches.shape[0]} patches are not a multiple of {number} × {number}; give all of a sample's"
        )
    tiles = patches.unflatten(0, (-1, number, number)).permute(0, 3, 1, 4, 2, 5)
    return tiles.flatten(4, 5).flatten(2, 3)


@dataclass(frozen=True)
class MultigridPatching2D:
    """Cuts inputs and targets into patches and puts outputs together again.

    >>> patching = MultigridPatching2D(levels=1)
    >>> x, y = patching.patch(field, target)          # (4 batch, 2 channels, N/2, N/2)
    >>> prediction = patching.unpatch(model(x), (N, N))  # (batch, 1, N, N)

    Args:
        levels: of halving each axis; 0 leaves the domain whole.
        padding_fraction: halo on each side, as a share of the domain's points. Outputs keep theirs until ``unpatch``.
        stitching: train on the stitched output; otherwise ``patch`` cuts the target too, so that patches are compared.
        context: the coarse views. Without them a patch sees itself and its halo, which is plain domain decomposition.
    """

    levels: int = 1
    padding_fraction: float = 0.0
    stitching: bool = True
    context: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.levels, bool) or not isinstance(self.levels, int) or self.levels < 0:
            raise ValueError(f"levels {self.levels!r} must be a whole number of at least 0")
        if self.padding_fraction < 0:
            raise ValueError(f"padding_fraction {self.padding_fraction} must not be negative")

    @property
    def patches(self) -> int:
        """An axis."""
        return 2**self.levels

    def channels(self, in_channels: int) -> int:
        """Channels of a patch: what a model must take."""
        return in_channels * (self.levels + 1 if self.context else 1)

    def pads(self, grid: Sequence[int]) -> tuple[int, int]:
        """Points of the halo; none where the domain stays whole."""
        height, width = (round(self.padding_fraction * n) if self.levels else 0 for n in grid)
        return height, width

    def patch(
        self, x: Fields, y: Float[Tensor, "batch cout rows columns"] | None = None, *, own: slice | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Patches (batch · 4^levels, channels · (levels + 1), s + 2 pad, s + 2 pad) of ``x``; and the target.

        ``own`` is a run of the patches where not all are wanted; only these are made, and only their samples are looked
        at. With ``stitching`` the target stays whole.

        Raises:
            ValueError: a grid that does not divide, a halo wider than the patch, NaN, no 2-D field; an empty run.
        """
        whole, numbers = y, None
        if own is not None:
            each = self.patches**2
            run = range(len(x) * each)[own]
            if not run or run.step != 1:
                raise ValueError(f"{own} is no run of the {len(x) * each} patches of {len(x)} samples")
            samples = slice(run[0] // each, run[-1] // each + 1)  # a patch sees its own sample alone
            x, y = x[samples], None if y is None else y[samples]
            numbers = torch.arange(run[0], run[-1] + 1, device=x.device) - samples.start * each
        grid, pads = self._check(x)
        views = []
        for level in range(self.levels + 1 if self.context else 1):
            rows, columns = (
                patch_indices(n, self.levels, pad, level, x.device) for n, pad in zip(grid, pads, strict=True)
            )
            views.append(cut(x, rows, columns, numbers))
        if y is None or self.stitching:
            return torch.cat(views, dim=1), whole
        self._divides(y.shape[2:])
        rows, columns = (patch_indices(n, self.levels, 0, 0, y.device) for n in y.shape[2:])
        return torch.cat(views, dim=1), cut(y, rows, columns, None if numbers is None else numbers.to(y.device))

    def crop(self, patches: Tensor, grid: Sequence[int]) -> Tensor:
        """Patches without halo, of a domain of ``grid`` points.

        Raises:
            ValueError: a grid that these are no patches of.
        """
        self._divides(grid)
        if any(
            (extra := size - n // self.patches) < 0 or extra % 2
            for size, n in zip(patches.shape[2:], grid, strict=True)
        ):
            raise ValueError(
                f"patches of {tuple(patches.shape[2:])} points are not {self.patches} × {self.patches} patches of a "
                f"{tuple(grid)} grid with a halo that is as wide on either side"
            )
        top, left = ((size - n // self.patches) // 2 for size, n in zip(patches.shape[2:], grid, strict=True))
        height, width = patches.shape[2:]
        return patches[..., top : height - top, left : width - left]

    def unpatch(self, patches: Tensor, grid: Sequence[int]) -> Fields:
        """The whole fields of ``grid`` points: halo cropped, patches stitched."""
        return stitch(self.crop(patches, grid), self.patches)

    def outputs(self, patches: Tensor, grid: Sequence[int]) -> Tensor:
        """What the target of ``patch`` is compared with: stitched fields, or cropped patches without ``stitching``."""
        return self.unpatch(patches, grid) if self.stitching else self.crop(patches, grid)

    def _divides(self, grid: Sequence[int]) -> None:
        if any(n % self.patches for n in grid):
            raise ValueError(f"a grid of {tuple(grid)} does not divide into {self.patches} × {self.patches} patches")

    def _check(self, x: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        if x.ndim != 4 or x.is_complex():
            raise ValueError(f"real fields (batch, channels, height, width) are needed, got {x.dtype} {tuple(x.shape)}")
        grid = (x.shape[2], x.shape[3])
        divisor = 4**self.levels if self.context else self.patches
        self._divides(grid)
        for n in grid:
            if n % divisor:
                raise ValueError(
                    f"a grid of {grid} has no coarse views that line up with {self.patches} × {self.patches} patches; "
                    f"each axis must be a multiple of {divisor}, or use context=False"
                )
        pads = self.pads(grid)
        if any(pad > n // self.patches for pad, n in zip(pads, grid, strict=True)):
            raise ValueError(
                f"a halo of {pads} points is wider than the patch of a {grid} grid; lower padding_fraction"
            )
        if not torch.isfinite(x).all():
            raise ValueError(
                "the fields hold NaN or infinity; a patch would hand it to all that see it in their context"
            )
        return grid, pads


@dataclass(frozen=True)
class RandomPatch:
    """One multi-grid patch at a random place of each sample, for training with a fraction of the points.

    The domain is periodic, so a patch may begin anywhere: each sample is rolled along its two spatial axes before the
    first patch is cut. Only for operators that commute with translations (forcings to vorticities, say), and models
    without coordinates of the domain.
    """

    patching: MultigridPatching2D = MultigridPatching2D()

    def __call__(
        self, x: Fields, y: Float[Tensor, "batch cout height width"], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """(batch, channels · (levels + 1), s + 2 pad, …) and the target's (batch, channels, s, s)."""
        grid, pads = self.patching._check(x)
        if y.shape[:1] + y.shape[2:] != x.shape[:1] + x.shape[2:]:
            raise ValueError(f"fields {tuple(x.shape)} and targets {tuple(y.shape)} must share their samples and grid")
        shifts = [torch.randint(n, (x.shape[0],), generator=generator) for n in grid]
        views = [
            self._take(
                x,
                shifts,
                [patch_indices(n, self.patching.levels, pad, level)[0] for n, pad in zip(grid, pads, strict=True)],
            )
            for level in range(self.patching.levels + 1 if self.patching.context else 1)
        ]
        target = self._take(y, shifts, [patch_indices(n, self.patching.levels, 0, 0)[0] for n in grid])
        return torch.cat(views, dim=1), target

    @staticmethod
    def _take(x: Tensor, shifts: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
        rows, columns = (
            ((shift[:, None] + index) % n).to(x.device)
            for shift, index, n in zip(shifts, indices, x.shape[2:], strict=True)
        )
        sample = torch.arange(x.shape[0], device=x.device)[:, None, None]
        return x[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
