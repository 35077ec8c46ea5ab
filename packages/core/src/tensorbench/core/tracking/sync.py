"""Log to MLflow what it lacks: records whose run was lost with the store, or never reached it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tensorbench.core.tracking.run_log import KIND, RunLog, milliseconds
from tensorbench.core.tracking.store import Store, unreachable

log = logging.getLogger(__name__)
Row = Mapping[str, Any]
_TAGS = ("paper", "method", "dataset", "scale", "seed", "trial", "config_hash", "record")


def sync(uri: str, records: Iterable[Row]) -> dict[str, int]:
    """Log every record that has no FINISHED run in the store; idempotent. Never raises because of the store.

    A row has: record, package, experiment, dataset, method, seed, scale, trial, paper, started (ISO 8601), metrics
    (name -> final value), history ((metric, step, value) …), params, provenance, artifacts (paths); optionally seconds
    and config_hash. Returns counts: ``logged``, ``present``, ``killed`` (their stale runs), ``lost`` (the store could
    not be used).
    """
    counts = {"logged": 0, "present": 0, "killed": 0, "lost": 0}
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in records:
        groups[f"{row['package']}/{row['experiment']}"].append(row)
    if not groups:
        return counts
    todo = sum(map(len, groups.values()))
    try:
        store = Store.open(uri)
        with _one_at_a_time(store):
            for name, rows in groups.items():
                _sync_experiment(store, name, rows, counts)
    except Exception as error:
        log.warning("%s", unreachable(uri, error))
        log.debug("sync stopped", exc_info=True)
    counts["lost"] = todo - counts["logged"] - counts["present"]
    return counts


def _sync_experiment(store: Store, name: str, rows: list[Row], counts: dict[str, int]) -> None:
    finished: set[str] = set()
    open_runs: dict[str, list[Any]] = defaultdict(list)
    peers: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for run in store.runs(store.experiment(name)):
        record = run.data.tags.get("record", "")
        peers[_kind(run.data.tags)].append(run)
        if run.info.status == "FINISHED":
            finished.add(record)
        elif run.info.status == "RUNNING" and record:
            open_runs[record].append(run)
    for row in rows:
        record = str(row["record"])
        if record in finished:
            counts["present"] += 1
            continue
        kind = peers[_kind(row)]
        live = log_record(store.uri, row, kind)
        if live.lost or live.run_id is None:
            raise ConnectionError("it stopped answering")
        kind[:] = [store.client.get_run(live.run_id)]
        # A record is written after its run has ended in MLflow, so that one still RUNNING has lost the store.
        for run in open_runs.get(record, []):
            store.close(run.info.run_id, "KILLED")
            counts["killed"] += 1
        finished.add(record)
        counts["logged"] += 1


def log_record(uri: str, row: Row, peers: Iterable[Any] | None = None) -> RunLog:
    """One record as a finished MLflow run, as if it had been logged live; ``peers``: the runs of its kind, if known."""
    provenance = row.get("provenance") or {}
    tags = {key: row.get(key) for key in _TAGS}
    tags |= {"commit": provenance.get("commit"), "dirty": provenance.get("dirty"), "synced": "true"}
    which = f"seed {row['seed']}" if row.get("trial") is None else f"trial {row['trial']}"
    live = RunLog.start(
        uri, f"{row['package']}/{row['experiment']}", f"{row['method']} · {row['dataset']} · {which}", tags,
        flat(row.get("params") or {}), live=False, started=row["started"],
    )  # fmt: skip
    start = milliseconds(row["started"])
    for metric, step, value in row.get("history") or ():
        live.log({metric: value}, step, time_ms=start)
    seconds = row.get("seconds")
    seconds = seconds if seconds is not None and 0 <= seconds < float("inf") else 0.0
    end = start + round(seconds * 1000)
    live.log(row.get("metrics") or {}, time_ms=end)
    live.finish({}, [path for path in map(Path, row.get("artifacts") or ()) if path.is_file()], ended=end / 1000,
                peers=peers)  # fmt: skip
    return live


def _kind(labels: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple("" if labels.get(key) is None else str(labels[key]) for key in (*KIND, "trial"))


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested params with dotted names."""
    found: dict[str, str] = {}
    for key, value in params.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return found


def _one_at_a_time(store: Store) -> Any:
    if store.database is None:
        return nullcontext()
    from filelock import FileLock

    return FileLock(store.database.with_name(store.database.name + ".sync.lock"), timeout=600)
