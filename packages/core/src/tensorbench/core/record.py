"""What a run leaves on disk: one row per run in a Parquet file per job, written atomically: complete or absent.

The Arrow schema below is the whole contract between those who write records (``core.run``) and those who read them
(``core.records``). Changing it means a new ``SCHEMA_VERSION``; older records are then refused by name, never misread.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1
_POINT = pa.struct([("metric", pa.string()), ("step", pa.float64()), ("value", pa.float64())])
SCHEMA = pa.schema(
    [
        ("record", pa.string()),
        ("package", pa.string()),
        ("experiment", pa.string()),
        ("dataset", pa.string()),
        ("method", pa.string()),
        ("paper", pa.string()),
        ("seed", pa.int64()),
        ("trial", pa.int64()),
        ("scale", pa.string()),
        ("started", pa.string()),
        ("seconds", pa.float64()),
        ("config_hash", pa.string()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
        ("booleans", pa.list_(pa.string())),
        ("history", pa.list_(_POINT)),
        ("params", pa.string()),
        ("provenance", pa.string()),
        ("artifacts", pa.list_(pa.string())),
    ],
    metadata={"tensorbench.schema": str(SCHEMA_VERSION)},
)


class RecordError(RuntimeError):
    """A record cannot be written or read; the message says which file and what to do."""


@dataclass
class Record:
    """One run: who it is, what it measured (``metrics`` final values, ``history`` points), where it comes from."""

    package: str
    experiment: str
    dataset: str
    method: str
    seed: int
    scale: str
    started: str
    config_hash: str
    paper: str | None = None
    trial: int | None = None
    seconds: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    booleans: list[str] = field(default_factory=list)
    history: list[tuple[str, float, float]] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    record: str = field(default_factory=lambda: uuid.uuid4().hex)

    def row(self) -> dict[str, Any]:
        row = dict(self.__dict__)
        row["metrics"] = list(self.metrics.items())
        row["history"] = [{"metric": m, "step": s, "value": v} for m, s, v in self.history]
        row["params"] = json.dumps(self.params, sort_keys=True, default=str)
        row["provenance"] = json.dumps(self.provenance, sort_keys=True, default=str)
        return row


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write to the yielded temporary path beside ``path``; it takes the name only when all of it is on disk.

    A full disk, a read-only folder or an exception leaves the old file (or none) and no temporary behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror or error}. Nothing was left half-written; free space or fix the "
            "folder's permissions and run snakemake again: only this job is redone."
        ) from error
    finally:
        with suppress(OSError):  # a parent that is no folder would hide the message above
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write(path: Path, records: Iterable[Record]) -> None:
    """Write ``records`` to ``path`` atomically."""
    table = pa.Table.from_pylist([record.row() for record in records], schema=SCHEMA)
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_statistics=False, use_dictionary=False)


def read_table(path: Path) -> pa.Table:
    """The rows of ``path`` in the present schema; RecordError if it is another version's or no record."""
    try:
        with pq.ParquetFile(path) as file:  # half the cost of read_table, which matters for thousands of small files
            table = file.read(use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise RecordError(f"{path} is not a readable record ({error}); delete it and run snakemake again") from error
    found = (table.schema.metadata or {}).get(b"tensorbench.schema", b"none").decode()
    if found != str(SCHEMA_VERSION):
        raise RecordError(
            f"{path} was written with record schema {found}, this version reads {SCHEMA_VERSION}; delete it (or move "
            "it away) and run snakemake again to redo that job"
        )
    return table


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows as plain dicts: metrics and params as dicts, history as (metric, step, value) tuples."""
    rows = read_table(path).to_pylist()
    for row in rows:
        row["metrics"] = dict(row["metrics"] or [])
        row["history"] = [(p["metric"], p["step"], p["value"]) for p in row["history"] or []]
        row["params"] = json.loads(row["params"])
        row["provenance"] = json.loads(row["provenance"])
    return rows
