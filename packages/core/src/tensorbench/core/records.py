"""Records as a data frame: one row per run, for claims, tables, figures and whoever opens them in a notebook.

>>> records = load(Path("results/desk/decomposition/completion.parquet"))
>>> history(records, "train_rmse")  # long: dataset, method, seed, step, value
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tensorbench.core import provenance
from tensorbench.core import record as rec
from tensorbench.core.config import Experiment
from tensorbench.core.errors import unknown

log = logging.getLogger(__name__)
IDENTITY = ["dataset", "method", "seed"]
_NOTES = b"tensorbench.notes"


@dataclass(frozen=True)
class Paths:
    """Where the files of a workspace's scale lie. Everything under ``results/`` is generated."""

    root: Path
    scale: str

    @property
    def results(self) -> Path:
        return self.root / "results"

    def job(self, experiment: str, dataset: str, method: str, suffix: str = ".parquet") -> Path:
        return self.results / self.scale / experiment / dataset / f"{method}{suffix}"

    def collected(self, experiment: str, suffix: str = ".parquet") -> Path:
        return self.results / self.scale / f"{experiment}{suffix}"

    def table(self, experiment: str) -> Path:
        return self.root / "paper" / "tables" / self.scale / experiment

    def figure(self, experiment: str, name: str) -> Path:
        return self.root / "paper" / "figures" / self.scale / experiment / name

    def ledger(self, suffix: str = ".csv") -> Path:
        return self.results / self.scale / f"claims{suffix}"


@dataclass
class Collected:
    """The table of an experiment's records, and why each absent job is absent (``dataset/method`` -> reason)."""

    table: pa.Table
    missing: dict[str, str] = field(default_factory=dict)
    older_code: int = 0  # runs made by other sources of the package than the present ones


def collect(experiment: Experiment, paths: Paths) -> Collected:
    """Read every record of ``experiment`` that is there and of the present config.

    A job without a record gets its reason: the error of its failed run, or that it has not run. Records of another
    config (an edited parameter), unreadable ones and those of an older schema count as absent, and are told.
    """
    tables, missing = [], {}
    for dataset, method in experiment.jobs():
        path = paths.job(experiment.key, dataset, method)
        job = f"{dataset}/{method}"
        if not path.exists():
            missing[job] = failure_reason(paths, experiment.key, dataset, method)
            continue
        try:
            table = rec.read_table(path)
        except rec.RecordError as error:
            log.error("%s", error)
            missing[job] = str(error)
            continue
        if set(table.column("config_hash").to_pylist()) != {experiment.job_hash(dataset, method)}:
            missing[job] = "its record is of an older config; run snakemake again"
            log.warning("%s: %s is of an older config and was left out", experiment.key, path)
            continue
        tables.append(table)
    result = Collected(pa.concat_tables(tables) if tables else rec.SCHEMA.empty_table(), missing)
    present = provenance.code_hash(paths.root, experiment.package)
    codes = [json.loads(text).get("code") for text in result.table.column("provenance").to_pylist()]
    result.older_code = sum(code != present for code in codes)
    if result.older_code:
        log.warning(
            "%s: %d of %d runs were made by other code of packages/%s than the present; to redo them: "
            "snakemake %s --forcerun run",
            experiment.key, result.older_code, len(codes), experiment.package, experiment.key,
        )  # fmt: skip
    return result


def failure_reason(paths: Paths, experiment: str, dataset: str, method: str) -> str:
    """Why a job has no record."""
    note = paths.job(experiment, dataset, method, ".failed.json")
    if not note.exists():
        return "not run"
    try:
        return f"failed: {json.loads(note.read_text())['error']}"
    except (ValueError, KeyError):
        return "failed (its note is unreadable)"


def frame(table: pa.Table, folder: Path | None = None) -> pd.DataFrame:
    """One row per run: identity, final metrics, ``dataset.<param>``, ``method.<param>``; histories hidden.

    ``folder`` is the experiment's folder, to which the records' artifact paths are relative.
    """
    columns: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in table.column_names}
    rows = []
    for i in range(table.num_rows):
        booleans = set(columns["booleans"][i] or [])
        metrics = {k: bool(v) if k in booleans and v == v else v for k, v in columns["metrics"][i] or []}
        params = json.loads(columns["params"][i])
        points: dict[str, tuple[list[float], list[float]]] = {}
        for point in columns["history"][i] or []:
            steps, values = points.setdefault(point["metric"], ([], []))
            steps.append(point["step"])
            values.append(point["value"])
        row = {
            name: columns[name][i]
            for name in ("dataset", "method", "paper", "seed", "trial", "scale", "seconds", "record")
        }
        row |= metrics
        row |= {f"{kind}.{key}": value for kind in ("dataset", "method") for key, value in params.get(kind, {}).items()}
        kept = [str(folder / name) if folder else name for name in columns["artifacts"][i] or []]
        row |= {"_history": points, "_artifacts": kept, "_provenance": columns["provenance"][i]}
        row["_logged"] = list(metrics)  # a metric that is NaN is not one that was never logged
        rows.append(row)
    fixed = [
        "dataset",
        "method",
        "paper",
        "seed",
        "trial",
        "scale",
        "seconds",
        "record",
        "_history",
        "_artifacts",
        "_provenance",
        "_logged",
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=fixed)


def load(path: Path) -> pd.DataFrame:
    """The data frame of a collected table (``results/<scale>/<package>/<experiment>.parquet``) or of one record."""
    path = Path(path).resolve()
    collected = path.with_suffix("").is_dir()
    return frame(rec.read_table(path), path.with_suffix("") if collected else path.parent.parent)


def write_collected(path: Path, collected: Collected) -> None:
    """Write the collected table as Parquet (whole) and CSV (identity and final metrics, for spreadsheets)."""
    notes = {"missing": collected.missing, "older_code": collected.older_code}
    table = collected.table.replace_schema_metadata({**(rec.SCHEMA.metadata or {}), _NOTES: json.dumps(notes).encode()})
    with rec.atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    wide = frame(collected.table).drop(columns=["_history", "_artifacts", "_provenance", "_logged"], errors="ignore")
    with rec.atomic(path.with_suffix(".csv")) as temporary:
        wide.to_csv(temporary, index=False)


def read_notes(path: Path) -> tuple[dict[str, str], int]:
    """Of a collected table: why each absent job is absent, and how many runs are of older code."""
    notes = json.loads((pq.read_schema(path).metadata or {}).get(_NOTES, b"{}"))
    return notes.get("missing", {}), notes.get("older_code", 0)


def history(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The points of ``metric`` as a long frame: dataset, method, seed, step, value. Unknown metrics are an error."""
    pieces = []
    known: set[str] = set()
    for dataset, method, seed, points in zip(
        records["dataset"], records["method"], records["seed"], records["_history"], strict=True
    ):
        known |= points.keys()
        if metric in points:
            steps, values = points[metric]
            pieces.append(
                pd.DataFrame({"dataset": dataset, "method": method, "seed": seed, "step": steps, "value": values})
            )
    if not pieces:
        if len(records) and known:
            log.warning("%s", unknown("history", metric, known))
        return pd.DataFrame(columns=[*IDENTITY, "step", "value"])
    return pd.concat(pieces, ignore_index=True)


def artifacts(records: pd.DataFrame, name: str) -> pd.DataFrame:
    """Paths of the artifact ``name`` of every run that kept one: dataset, method, seed, path."""
    rows = [
        {"dataset": dataset, "method": method, "seed": seed, "path": Path(path)}
        for dataset, method, seed, paths in zip(
            records["dataset"], records["method"], records["seed"], records["_artifacts"], strict=True
        )
        for path in paths
        if Path(path).name == name and Path(path).exists()
    ]
    return pd.DataFrame(rows, columns=[*IDENTITY, "path"])


def rows_of(paths: Iterable[Path]) -> Iterable[dict[str, Any]]:
    """The rows of many record files as plain dicts (what ``tracking.sync`` takes)."""
    for path in paths:
        yield from rec.read_rows(path)
