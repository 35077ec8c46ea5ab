"""The figures and claims of an experiment at a scale, as one MLflow run beside the runs they summarise."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorbench.core.tracking.run_log import RunLog
from tensorbench.core.tracking.store import TAG_LENGTH, where


def log_report(
    uri: str, experiment: str, scale: str, figures: Iterable[Path], ledger_rows: Iterable[Mapping[str, Any]]
) -> bool:
    """Log the run ``figures · <scale>`` with figure files and ``claims.csv``; it replaces its predecessor as current.

    The claims also stand in the run's description, as a table. Returns False when the store was lost; never raises
    because of it.
    """
    rows = [dict(row) for row in ledger_rows]
    live = RunLog.start(uri, experiment, f"figures · {scale}", {"scale": scale, "kind": "report"}, {}, live=False)
    for figure in figures:
        live.artifact(figure, "figures")
    with live._guard("log the report") as store:
        if store is not None and live.run_id is not None:
            store.upload_text(live.run_id, _as_csv(rows), "claims.csv")
            store.batch(live.run_id, tags={"mlflow.note.content": _as_markdown(rows)[:TAG_LENGTH], "current": "true"})
            for run in store.runs(live._experiment, where(kind="report", scale=scale, current="true")):
                if run.info.run_id != live.run_id:
                    store.batch(run.info.run_id, tags={"current": "false"})
    live.finish()
    return not live.lost


def _as_csv(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _as_markdown(rows: list[dict[str, Any]]) -> str:
    """The heart of the ledger, whole rows only, within a tag's length."""
    columns = ("claim", "says", "bound", "measured", "low", "high", "verdict")
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(column)) for column in columns) + " |")
        if sum(map(len, lines)) + len(lines) > TAG_LENGTH:
            lines[-1] = "… (all in claims.csv)"
            break
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
