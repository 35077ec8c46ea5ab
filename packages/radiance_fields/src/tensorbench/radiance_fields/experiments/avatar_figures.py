"""Figures and the animation of the avatar experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.radiance_fields.cameras import Camera, look_at
from tensorbench.radiance_fields.datasets.humanoids import Avatars
from tensorbench.radiance_fields.gaussians.motions import motion
from tensorbench.radiance_fields.gaussians.skeleton import forward_kinematics
from tensorbench.radiance_fields.migs.avatar import Avatar

ROWS = ("truth", "mean", "per_person", "full", "cp_10", "cp_40", "cp_100")
RANKED = {"cp_10": 10, "cp_40": 40, "cp_100": 100}
WORST = 0.5  # absolute error drawn darkest


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10 * float(np.log10(max(np.mean(((a.astype(float) - b) / 255) ** 2), 1e-10)))


def _found(records: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    files = rec.artifacts(records, "pictures.npz")
    if not len(files):
        return {}
    return {str(method): dict(np.load(path)) for method, path in zip(files["method"], files["path"], strict=True)}


def _show(ax: Axes, picture: np.ndarray, text: str = "", **options: Any) -> None:
    ax.imshow(picture, interpolation="nearest", **options)
    plotting.bare(ax)
    ax.set_xlabel(text, fontsize=6.5, labelpad=1)


def novel_poses(records: pd.DataFrame) -> Figure:
    """People in poses of others, two a person, a row a method; then the errors of one model a person and of MIGS."""
    found = _found(records)
    shown = [name for name in ROWS if name in found]
    if not shown:
        return plotting.nothing()
    first = found[shown[0]]
    people = sum(key.startswith("truth_pose_") for key in first)
    cases = [(k, frame) for k in range(people) for frame in (1, 2) if frame < len(first[f"pose_{k}"])]
    errors = [name for name in ("per_person", "cp_40") if name in found]
    names = ["truth", *shown, *(f"error of {plotting.label(name)}" for name in errors)]
    fig, axes = plotting.figure(
        columns=2, rows=len(names), cols=len(cases), height=2.1 * len(names) + 0.4, squeeze=False
    )
    for line, name in zip(axes, names, strict=True):
        for ax, (k, frame) in zip(line, cases, strict=True):
            truth = first[f"truth_pose_{k}"][frame]
            if name == "truth":
                _show(ax, truth)
            elif name in found:
                picture = found[name][f"pose_{k}"][frame]
                _show(ax, picture, f"{_psnr(picture, truth):.1f} dB")
            else:
                method = errors[names.index(name) - len(names)]
                off = np.abs(found[method][f"pose_{k}"][frame].astype(float) - truth).mean(-1) / 255
                _show(ax, off, cmap="Reds", vmin=0, vmax=WORST)
        label = name if name == "truth" or name not in found else plotting.label(name)
        line[0].set_ylabel(label.replace(" of ", " of\n"), fontsize=7)
    return fig


def quality(records: pd.DataFrame) -> Figure:
    """Novel poses against weights and against the rank; all splits by method."""
    fig, axes = plotting.figure(columns=2, cols=3, height=7, gridspec_kw={"width_ratios": [1.1, 0.9, 1.5]})
    if records.empty or "pose_psnr" not in records:
        for ax in axes:
            plotting.empty(ax)
        return fig
    shown = [name for name in ROWS if (records["method"] == name).any()]
    looks = plotting.styles(shown)
    for name in shown:
        part = records[records["method"] == name]
        middle, spread = part["pose_psnr"].mean(), part["pose_psnr"].std() if len(part) > 1 else 0.0
        look = plotting.style(name) if name in looks else {}
        axes[0].errorbar(part["weights"].mean(), middle, yerr=spread, linestyle="none", marker=look.get("marker", "o"),
                         color=look.get("color"), label=look.get("label", name), capsize=2)  # fmt: skip
    plotting.log_axis(axes[0], "x", ticks=[5e4, 1e5, 2e5])
    axes[0].set(xlabel="weights in all", ylabel="PSNR, novel poses (dB)")
    ranked = records[records["method"].isin(RANKED)]
    if len(ranked):
        line = ranked.assign(rank=ranked["method"].map(RANKED), what="MIGS")
        plotting.series(axes[1], line, "rank", "pose_psnr", by="what")
        for line in axes[1].lines:
            line.set_label("_migs")
        for name, text in (("per_person", "a model each"), ("mean", "mean avatar")):
            if (records["method"] == name).any():
                plotting.reference(axes[1], y=records.loc[records["method"] == name, "pose_psnr"].mean(), text=text)
        plotting.log_axis(axes[1], "x", ticks=sorted(RANKED.values()))
    axes[1].set(xlabel="rank R", ylabel="PSNR, novel poses (dB)")
    long = pd.concat([
        records.assign(split=text, value=records[key])
        for key, text in (("pose_psnr", "novel poses"), ("view_psnr", "novel views"), ("valid_psnr", "own motion"))
    ])  # fmt: skip
    plotting.bars(axes[2], long, "value", group="split", by="method", order=shown)
    low = float(long["value"].min())
    axes[2].set(ylabel="PSNR (dB)", ylim=(max(0.0, np.floor(low - 2)), None))
    plotting.legend(fig)
    return fig


def newcomer(records: pd.DataFrame) -> Figure:
    """The person seen in six frames, in four novel poses: truth, the ways of learning it, and from all frames."""
    found = _found(records)
    rows = [("cp_40", "new_row", "row alone"), ("cp_40", "new", "row and colour"), ("cp_40", "new_all", "everything"),
            ("per_person", "new", "model from scratch"), ("cp_40_joint", "new", "there from the start")]  # fmt: skip
    rows = [row for row in rows if row[1] in found.get(row[0], {})]
    if not rows or "truth_new" not in found[rows[0][0]]:
        return plotting.nothing()
    truth = found[rows[0][0]]["truth_new"][:4]
    fig, axes = plotting.figure(
        columns=2, rows=len(truth), cols=len(rows) + 1, height=2.6 * len(truth) + 0.6, squeeze=False
    )
    for k, line in enumerate(axes):
        _show(line[0], truth[k])
        for ax, (method, key, _) in zip(line[1:], rows, strict=True):
            picture = found[method][key][k]
            _show(ax, picture, f"{_psnr(picture, truth[k]):.1f} dB")
    for ax, text in zip(axes[0], ["truth", *(text for _, _, text in rows)], strict=True):
        ax.set_title(text, fontsize=7.5)
    return fig


@torch.no_grad()
def animate(model: Avatar, data: Avatars, path: Path, *, frames: int = 24, size: int = 96) -> None:
    """All people of a model in one dance, as a GIF; nobody was seen in all of these poses."""
    import imageio.v3 as iio

    camera = Camera(size, size, data.camera.focal * size / data.camera.width)
    rotations = motion("dance", frames)
    angle = 2 * np.pi * (0.15 * np.sin(2 * np.pi * np.arange(frames) / frames))
    eyes = torch.from_numpy(3.0 * np.stack([np.sin(angle), 0.1 + 0 * angle, np.cos(angle)], axis=-1)).float()
    poses = look_at(eyes, up=(0.0, 1.0, 0.0))
    joints = torch.stack([person.joints for person in data.people])
    count = len(data.people)
    shots = []
    for turn, c2w in zip(rotations.to(joints), poses.to(joints), strict=True):
        pose = turn.expand(count, -1, -1, -1)
        out = model(
            torch.arange(count), pose, forward_kinematics(pose, joints), joints, camera, c2w.expand(count, 4, 4)
        )
        strip = torch.cat(list(out.image.clamp(0, 1)), dim=1)
        shots.append((strip * 255).round().byte().cpu().numpy())
    iio.imwrite(path, np.stack(shots), duration=80, loop=0)
