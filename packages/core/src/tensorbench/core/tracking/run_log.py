"""A run, live in MLflow. Nothing that happens to the store reaches the run: the first failure is one warning, ``lost``
becomes true, and the run goes on without it.
"""

from __future__ import annotations

import getpass
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorbench.core.tracking.points import Point, Points
from tensorbench.core.tracking.store import METRICS_PER_CALL, TAG_LENGTH, Store, unreachable, where

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
KIND = ("method", "dataset", "scale", "seed")  # with the trial: what makes two runs runs of one kind
_warned: set[str] = set()  # one warning per store and process, not one per seed


class RunLog:
    """The MLflow side of one run. Start it with :meth:`start`; end it with :meth:`finish` or :meth:`fail`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.lost = False
        self.run_id: str | None = None
        self._store: Store | None = None
        self._experiment = ""
        self._tags: dict[str, str] = {}
        self._params: dict[str, object] = {}
        self._points = Points()
        self._buffer: list[Point] = []
        self._buffer_lock = threading.Lock()  # guards _points and _buffer: held for microseconds
        self._send_lock = threading.Lock()  # keeps batches in order: held while the store is spoken to
        self._over = threading.Event()
        self._flusher: threading.Thread | None = None

    @classmethod
    def start(cls, uri: str, experiment: str, name: str, tags: Mapping[str, object], params: Mapping[str, object], *,
              live: bool = True, started: str | float | None = None) -> RunLog:  # fmt: skip
        """Open the run ``name`` in ``experiment`` (``<package>/<experiment>``). Never raises.

        ``tags``: method, dataset, scale, seed, record, and trial, paper, commit, config_hash where they exist (None
        and "" are left out). ``live=False`` keeps all metrics back until the end, for runs that measure time and want
        nothing beside them. ``started``: seconds since 1970 or ISO 8601 (default: now). An empty ``uri`` logs nowhere,
        silently.
        """
        self = cls(uri)
        if not uri:
            self.lost = True
            return self
        self._tags = {key: str(value) for key, value in tags.items() if value is not None and str(value) != ""}
        with self._guard("start the run"):
            self._store = Store.open(uri)
            self._experiment = self._store.experiment(experiment)
            labels = {
                **self._tags,
                "current": "false",
                "process": process_tag(),
                **_system_tags(experiment, self._tags),
            }
            self.run_id = self._store.create_run(self._experiment, name, labels, milliseconds(started))
            if live:
                self._store.batch(self.run_id, params=params)
            else:
                self._params = dict(params)  # one call at the end, with everything else
            _warned.discard(uri)
        if live and not self.lost:
            self._flusher = threading.Thread(target=self._flush_now_and_then, name="mlflow-flush", daemon=True)
            self._flusher.start()
        return self

    def log(self, metrics: Mapping[str, float], step: float | None = None, *, time_ms: int | None = None) -> None:
        """Log ``metrics`` at ``step`` (any number; None: final values). Costs microseconds: sending is done elsewhere.

        How steps become MLflow's integers is said in :mod:`tensorbench.core.tracking.points`.
        """
        if self.lost:
            return
        now = milliseconds() if time_ms is None else time_ms
        try:
            with self._buffer_lock:
                for metric, value in metrics.items():
                    self._buffer += self._points.add(metric, value, step, now)
        except (TypeError, ValueError) as error:
            log.warning("MLflow: metrics %s not logged: %s", sorted(metrics), error)

    def artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Keep the file ``path`` with the run."""
        path = Path(path)
        if not (path.is_file() and os.access(path, os.R_OK)):
            log.warning("MLflow: artifact %s is not a readable file and is left out", path)
            return
        with self._guard(f"keep the artifact {path.name}") as store:
            if store is not None and self.run_id is not None:
                store.upload(self.run_id, path, folder)

    def finish(self, extra_metrics: Mapping[str, float] | None = None, artifacts: Iterable[Path | str] = (), *,
               ended: str | float | None = None, peers: Iterable[Run] | None = None) -> None:  # fmt: skip
        """Send what is left, mark the run FINISHED and current; earlier runs of its kind are no longer current.

        ``peers``: the runs of its kind, when the caller knows them (default: search the store).
        """
        if extra_metrics:
            self.log(extra_metrics)
        for path in artifacts:
            self.artifact(path)
        self._drain({"current": "true"})
        with self._guard("finish the run") as store:
            if store is not None and self.run_id is not None:
                self._retire(store, peers, current=True)
                # Last, so that a FINISHED run is a complete one.
                store.close(self.run_id, "FINISHED", None if ended is None else milliseconds(ended))

    def fail(self, traceback_text: str, *, status: str = "FAILED") -> None:
        """Send what is left, attach the traceback, mark the run FAILED. The last success of its kind stays current."""
        text = traceback_text.strip() or "no traceback"
        self._drain({"error": text.splitlines()[-1], "traceback": text[-TAG_LENGTH:]})
        with self._guard("mark the run as failed") as store:
            if store is not None and self.run_id is not None:
                store.upload_text(self.run_id, text + "\n", "traceback.txt")
                self._retire(store, None, current=False)
                store.close(self.run_id, status)

    @contextmanager
    def _guard(self, doing: str) -> Iterator[Store | None]:
        """Yield the store, or None once it is lost; an exception inside is the loss of the store, told once."""
        try:
            yield None if self.lost else self._store
        except Exception as error:
            self.lost = True
            with self._buffer_lock:
                self._buffer.clear()
            log.log(logging.DEBUG if self.uri in _warned else logging.WARNING, "%s", unreachable(self.uri, error))
            log.debug("MLflow: could not %s", doing, exc_info=True)
            _warned.add(self.uri)

    def _flush_now_and_then(self) -> None:
        while not self._over.wait(FLUSH_SECONDS) and not self.lost:
            self._flush()

    def _flush(self) -> None:
        with self._send_lock:
            while not self.lost:
                with self._buffer_lock:
                    points, self._buffer = self._buffer[:METRICS_PER_CALL], self._buffer[METRICS_PER_CALL:]
                if not points:
                    return
                with self._guard("log metrics") as store:
                    if store is not None and self.run_id is not None:
                        store.batch(self.run_id, metrics=as_metrics(points))

    def _drain(self, tags: Mapping[str, str]) -> None:
        """Stop the flusher, then send all that is left and ``tags`` in as few calls as possible."""
        self._over.set()
        if self._flusher is not None:
            self._flusher.join()
            self._flusher = None
        with self._guard("log metrics") as store:
            if store is not None and self.run_id is not None:
                points, self._buffer = self._buffer, []
                store.batch(self.run_id, as_metrics(points), self._params, tags)

    def _retire(self, store: Store, peers: Iterable[Run] | None, current: bool) -> None:
        """Earlier runs of this kind: no longer current, and KILLED when their process died without a word."""
        if not all(key in self._tags for key in KIND):
            return
        if peers is None:
            peers = store.runs(self._experiment, where(**{key: self._tags[key] for key in KIND}))
        for run in peers:
            if run.info.run_id == self.run_id or run.data.tags.get("trial") != self._tags.get("trial"):
                continue
            if current and run.data.tags.get("current") == "true":
                store.batch(run.info.run_id, tags={"current": "false"})
            if run.info.status == "RUNNING" and is_dead(run):
                store.close(run.info.run_id, "KILLED")


def earlier_runs(uri: str, experiment: str, **tags: object) -> list[Run] | None:
    """The runs of ``experiment`` with ``tags``, for :meth:`RunLog.finish`; None where the store does not answer."""
    if not uri:
        return None
    try:
        store = Store.open(uri)
        return list(store.runs(store.experiment(experiment), where(**tags)))
    except Exception:  # the run that asks next tells of it
        log.debug("MLflow: could not look for earlier runs", exc_info=True)
        return None


def milliseconds(when: str | float | None = None) -> int:
    """``when`` (ISO 8601 or seconds since 1970; None: now) in milliseconds since 1970."""
    if when is None:
        return time.time_ns() // 1_000_000
    return round((datetime.fromisoformat(when).timestamp() if isinstance(when, str) else when) * 1000)


def as_metrics(points: Iterable[Point]) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(point.key, point.value, point.time, point.step) for point in points]


def process_tag() -> str:
    """``host pid start``: tells later whether the process that logs a run still lives."""
    import psutil

    return f"{platform.node()} {os.getpid()} {psutil.Process().create_time():.0f}"


def is_dead(run: Run) -> bool:
    """Whether the process that logged ``run`` is known to be gone. False for another host's: it cannot be known."""
    import psutil

    host, pid, started = [*run.data.tags.get("process", "").rsplit(" ", 2), "", ""][:3]
    if host != platform.node() or not (pid.isdigit() and started.isdigit()):
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - int(started)) > 1.5
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _system_tags(experiment: str, tags: Mapping[str, str]) -> dict[str, str]:
    """What the UI shows as user, source and version."""
    found = {"mlflow.source.name": experiment, "mlflow.source.type": "LOCAL"}
    if tags.get("commit"):
        found["mlflow.source.git.commit"] = tags["commit"]
    user = _or_none(getpass.getuser)
    return found | ({"mlflow.user": user} if user else {})


def _or_none(call: Callable[[], str]) -> str | None:
    try:
        return call()
    except (OSError, KeyError, ImportError):
        return None
