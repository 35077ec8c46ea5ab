"""Which GPU a job may use: a lease by file locks, for one host.

Snakemake counts GPUs (``--resources gpu=4``) but does not say which one a job got. Here a job takes a lock on a free
one and sees no other (``CUDA_VISIBLE_DEVICES``). The kernel drops a lock when its process ends, however it ends, so a
killed job frees its device at once. Whoever waits holds a numbered ticket, locked in the same way: the first ticket
goes first, and the ticket of a dead process is worth nothing. The locks are one user's on one host; between users and
hosts there is a scheduler, and what SLURM has assigned is taken as it is.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
_CUDA_ERROR_NOT_INITIALIZED = 3


@dataclass(frozen=True)
class Lease:
    """The devices that this process may use, as they stand in ``CUDA_VISIBLE_DEVICES``, and who said so."""

    devices: tuple[str, ...]
    source: str  # "lease", "slurm" or "none"
    waited_seconds: float = 0.0


# --- what there is -------------------------------------------------------------------------------------------------


def visible(environment: Mapping[str, str] | None = None) -> list[str]:
    """The GPUs that a lease may choose from: ``TENSORBENCH_GPUS``, else ``CUDA_VISIBLE_DEVICES``, else all of the host.

    GPUs of the host are named by their UUID, which, unlike a number, means the same GPU to CUDA and to nvidia-smi.
    """
    environment = os.environ if environment is None else environment
    for variable in ("TENSORBENCH_GPUS", "CUDA_VISIBLE_DEVICES"):
        if variable in environment:
            return _listed(environment[variable])
    return list(_host_gpus())


def _listed(text: str) -> list[str]:
    """CUDA's reading of a list of devices: what follows an invalid one does not count."""
    tokens = []
    for token in (part.strip() for part in text.split(",")):
        if token in ("", "-1", "NoDevFiles", "none", "void"):
            break
        if token not in tokens:
            tokens.append(token)
    return tokens


def _host_gpus() -> list[str]:
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        listing = "".join(f"GPU 0: (UUID: {match[1]})\n" for file in files if (match := _proc_uuid(file)))
    return _parse_listing(listing)


def _proc_uuid(file: Path) -> re.Match[str] | None:
    try:
        return re.search(r"GPU UUID:\s*(GPU-[0-9a-f-]+)", file.read_text(encoding="utf-8"))
    except OSError:
        return None


def _parse_listing(listing: str) -> list[str]:
    """UUIDs in the output of ``nvidia-smi -L``; a GPU divided into MIG instances is offered by instance."""
    found: list[str] = []
    whole: str | None = None
    for uuid, kind in re.findall(r"UUID: ((GPU|MIG)-[^)\s]+)\)", listing):
        if kind == "GPU":
            whole = uuid
            found.append(uuid)
        else:
            if whole in found:
                found.remove(whole)
            found.append(uuid)
    return found


def slurm_devices(environment: Mapping[str, str] | None = None) -> list[str] | None:
    """The GPUs that SLURM gave this job, or None outside a job or in a job that was given none."""
    environment = os.environ if environment is None else environment
    if not environment.get("SLURM_JOB_ID"):
        return None
    for variable in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        if devices := _listed(environment.get(variable, "")):
            return devices
    return None


# --- the lease -----------------------------------------------------------------------------------------------------


@contextmanager
def lease(
    count: int = 1,
    folder: str | Path | None = None,
    devices: Sequence[str] | None = None,
    timeout: float | None = None,
) -> Iterator[Lease]:
    """Hold ``count`` GPUs and see no others, until the block (or the process) ends.

    Enter before anything has touched CUDA. ``count=0`` hides all GPUs. In a SLURM job the scheduler's own assignment is
    kept and nothing is locked, unless it gave more devices than asked for (jobs beside each other in one allocation):
    then the choice is among those.

    Args:
        count: how many devices.
        folder: where the locks are, on a disk of this host; default: a folder of this user's in /tmp, which
            ``TENSORBENCH_LEASES`` changes.
        devices: what to choose from; default: :func:`visible`.
        timeout: seconds to wait; default: as long as it takes.

    Raises:
        ValueError: more devices asked for than there are.
        RuntimeError: CUDA is in use already, so that a choice would come too late.
        TimeoutError: naming the processes that hold the devices.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError(f"count {count!r} must be a whole number of GPUs, 0 or more")
    if count == 0:
        with _seeing(()):
            yield Lease((), "none")
        return
    assigned = slurm_devices() if devices is None else None
    if assigned is not None and len(assigned) == count:
        log.info("GPU %s, as SLURM assigned", ",".join(assigned))
        yield Lease(tuple(assigned), "slurm")
        return
    choice = list(dict.fromkeys(assigned or (visible() if devices is None else devices)))
    if count > len(choice):
        have = f"only {len(choice)} can be seen ({', '.join(choice)})" if choice else "none can be seen"
        by = "SLURM" if assigned is not None else "CUDA_VISIBLE_DEVICES, TENSORBENCH_GPUS or nvidia-smi"
        raise ValueError(f"{count} GPU asked for and {have} through {by}; use `device: cpu` or a scale that needs none")
    if _cuda_in_use():
        raise RuntimeError(
            "CUDA is initialised in this process already, so it is too late to choose a GPU; "
            "enter lease() before torch.cuda is used (best before torch is imported)"
        )
    began = time.monotonic()
    place = _folder(folder)
    held = _wait_for(count, choice, place, timeout)
    try:
        names = tuple(held)
        waited = time.monotonic() - began
        log.info("GPU %s leased%s", ",".join(names), f" after {waited:.0f} s of waiting" if waited > 1 else "")
        with _seeing(names):
            yield Lease(names, "lease", waited)
    finally:
        for lock in held.values():
            lock.close()


@contextmanager
def _seeing(devices: Sequence[str]) -> Iterator[None]:
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _cuda_in_use() -> bool:
    """Whether this process's CUDA driver has read its environment already; torch's own flag tells only half of it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return True
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    number = ctypes.c_int()
    return driver.cuDeviceGetCount(ctypes.byref(number)) != _CUDA_ERROR_NOT_INITIALIZED


def _folder(folder: str | Path | None) -> Path:
    chosen = folder or os.environ.get("TENSORBENCH_LEASES")
    # Not $TMPDIR: it may differ from job to job, and then they would not see each other's locks.
    base = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    place = Path(chosen) if chosen else base / f"tensorbench-gpus-{os.getuid()}"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if place.stat().st_uid != os.getuid() and not chosen:
            raise PermissionError(f"it belongs to user {place.stat().st_uid}")
        (place / "tickets").mkdir(exist_ok=True)
    except OSError as error:
        raise RuntimeError(f"the GPU locks cannot be kept in {place} ({error}); set TENSORBENCH_LEASES") from error
    return place


class _Lock:
    """An open file, locked until closed or until the process ends."""

    _open: ClassVar[set[_Lock]] = set()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _Lock._open.add(self)

    def take(self, *, wait: bool = False) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def write(self, content: object) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(content).encode(), 0)

    def close(self) -> None:
        if self in _Lock._open:
            _Lock._open.discard(self)
            os.close(self._descriptor)


def _forget_in_child() -> None:
    # A forked child (a data loader's worker) shares its parent's locks and would keep them after the parent's death.
    for lock in list(_Lock._open):
        lock.close()


os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Only one process at a time looks at the queue; it takes a fraction of a millisecond."""
    lock = _Lock(place / "queue.lock")
    try:
        lock.take(wait=True)
        yield
    finally:
        lock.close()


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _draw_ticket(place: Path, choice: Sequence[str]) -> _Lock:
    with _alone(place):
        numbers = [int(path.name) for path in (place / "tickets").iterdir() if path.name.isdigit()]
        ticket = _Lock(place / "tickets" / f"{max(numbers, default=0) + 1:012d}")
        ticket.take()
        ticket.write({"pid": os.getpid(), "devices": list(choice)})
    return ticket


def _is_my_turn(ticket: _Lock, choice: Sequence[str]) -> bool:
    """No living process with an earlier ticket wants any of these devices. To be called by :func:`_alone` only."""
    for path in sorted(ticket.path.parent.iterdir()):
        if path.name >= ticket.path.name:
            return True
        earlier = _Lock(path)
        try:
            if earlier.take():  # its owner died waiting
                path.unlink(missing_ok=True)
                continue
        finally:
            earlier.close()
        wanted = _read(path).get("devices")
        if not isinstance(wanted, list) or set(wanted) & set(choice):
            return False
    return True


def _take_free(count: int, choice: Sequence[str], place: Path) -> dict[str, _Lock] | None:
    held: dict[str, _Lock] = {}
    for device in choice:
        lock = _Lock(_device_file(place, device))
        if not lock.take():
            lock.close()
            continue
        held[device] = lock
        if len(held) == count:
            for taken in held.values():
                taken.write({"pid": os.getpid()})
            return held
    for lock in held.values():
        lock.close()
    return None


def _device_file(place: Path, device: str) -> Path:
    return place / f"device-{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock"


def _wait_for(count: int, choice: Sequence[str], place: Path, timeout: float | None) -> dict[str, _Lock]:
    deadline = None if timeout is None else time.monotonic() + timeout
    ticket = _draw_ticket(place, choice)
    announced = False
    try:
        while True:
            with _alone(place):
                held = _take_free(count, choice, place) if _is_my_turn(ticket, choice) else None
            if held is not None:
                return held
            if deadline is not None and time.monotonic() >= deadline:
                holders = _holders(choice, place)
                raise TimeoutError(f"no {count} of the GPUs {', '.join(choice)} in {timeout:g} s: {holders}")
            if not announced:
                log.info("waiting for a GPU: %s", _holders(choice, place))
                announced = True
            time.sleep(POLL_SECONDS)
    finally:
        # Once, and while it is still locked: as soon as it is gone, its number may be somebody else's.
        ticket.path.unlink(missing_ok=True)
        ticket.close()


def _holders(choice: Sequence[str], place: Path) -> str:
    owners = {device: _read(_device_file(place, device)).get("pid", "?") for device in choice}
    return ", ".join(f"{device} last taken by process {pid}" for device, pid in owners.items())
