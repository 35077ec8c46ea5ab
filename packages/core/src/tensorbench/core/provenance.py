"""Where a record comes from: commit, package versions, machine, threads, start time."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "tensorly",
    "scikit-learn",
    "scikit-image",
    "opt_einsum",
    "mlflow",
    "snakemake",
)


def now() -> str:
    """The present moment in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def commit(root: Path) -> tuple[str, bool]:
    """(commit, whether tracked files differ from it); ("unknown", False) outside a git checkout."""
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return "unknown", False
    return head, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))


@functools.cache
def code_hash(root: Path, package: str) -> str:
    """Twelve hex digits over the sources of a package: whether its records were made by the code that is there now."""
    digest = hashlib.sha256()
    source = root / "packages" / package / "src"
    for path in sorted(source.rglob("*.py")):
        digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpu_model() -> str | None:
    """Name of the current CUDA device, if torch is loaded and sees one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())


def versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe(root: Path, threads: int) -> dict[str, Any]:
    """The provenance of a run that starts now in this process."""
    head, dirty = commit(root)
    facts: dict[str, Any] = {
        "commit": head,
        "dirty": dirty,
        "python": platform.python_version(),
        "versions": versions(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": gpu_model(),
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if "SLURM_JOB_ID" in os.environ:
        facts["slurm_job"] = os.environ["SLURM_JOB_ID"]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        facts["cuda_visible_devices"] = os.environ["CUDA_VISIBLE_DEVICES"]
    return facts
