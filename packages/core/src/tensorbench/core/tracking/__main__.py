"""``python -m tensorbench.core.tracking init | sync | ui``: make the store, log what it lacks, look at it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorbench.core import tracking
from tensorbench.core.tracking.store import _prepare, artifact_root, sqlite_path

log = logging.getLogger("tensorbench")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tensorbench.core.tracking", description=__doc__)
    parser.add_argument("command", choices=["init", "sync", "ui"])
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results folder (default: ./results)")
    parser.add_argument("--port", type=int, default=5000, help="the UI's port on loopback (default: 5000)")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    uri = tracking.default_uri(options.results)
    return {"init": _init, "sync": _sync, "ui": _ui}[options.command](uri, options.results, options.port)


def _init(uri: str, results: Path, port: int) -> int:
    try:
        tracking.initialise(uri, results)  # a server that does not answer is a warning: runs keep their records
    except OSError as error:
        log.error("cannot create the MLflow store under %s: %s", results.resolve(), error.strerror or error)
        return 1
    return 0


def _sync(uri: str, results: Path, port: int) -> int:
    counts = tracking.sync(uri, _rows(results))
    log.info("MLflow: %s", ", ".join(f"{number} {what}" for what, number in counts.items()))
    return 1 if counts["lost"] else 0


def _rows(results: Path) -> Iterator[dict[str, Any]]:
    """Every record under ``results``, tuning trials included; unreadable ones are told and left out."""
    from tensorbench.core import record

    patterns = ("*/*/*/*/*.parquet", "*/*/*/*/*.trials/*.parquet")  # <scale>/<package>/<experiment>/<dataset>/<method>
    for path in sorted(path for pattern in patterns for path in results.glob(pattern)):
        try:
            rows = record.read_rows(path)
        except record.RecordError as error:
            log.warning("%s", error)
            continue
        for row in rows:
            home = results / row["scale"] / row["package"] / row["experiment"]
            row["artifacts"] = [home / name for name in row["artifacts"] or []]
            yield row


def _ui(uri: str, results: Path, port: int) -> int:
    database = sqlite_path(uri)
    if database is None:
        log.info("the store is a server with a UI of its own: open %s", uri)
        return 0
    tracking.initialise(uri, results)
    _prepare()
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # for its language-model features only
    log.info("the MLflow UI will be at http://127.0.0.1:%d/#/experiments?workflowType=machine_learning", port)
    arguments = ["ui", "--backend-store-uri", uri, "--artifacts-destination", str(artifact_root(database)),
                 "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
