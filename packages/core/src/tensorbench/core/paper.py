"""The paper, from records to PDF: gathers what the Typst source reads, and compiles it with the ``typst`` wheel.

Everything that is a number, a table or a figure in ``paper/paper.typ`` comes from
``paper/generated/<scale>/data.json``, ``paper/tables/<scale>/`` and ``paper/figures/<scale>/``; the source holds prose
and layout only.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tensorbench.core import data, papers, provenance, record, records
from tensorbench.core.config import DEFAULT_SCALE, Experiment, Workspace, load
from tensorbench.core.process import set_up_logging
from tensorbench.core.records import Paths

log = logging.getLogger("tensorbench")


class PaperError(RuntimeError):
    """The paper cannot be compiled."""


def gather(workspace: Workspace, root: Path) -> dict[str, Any]:
    """What the Typst source reads: the ledger, packages with their experiments, and where the records come from."""
    paths = Paths(root, workspace.scale)
    ledger = json.loads(paths.ledger(".json").read_text())
    experiments = [_experiment(e, paths, ledger) for e in workspace.experiments.values()]
    facts = [json.loads(text) for e in workspace.experiments.values() for text in _column(paths, e, "provenance")]
    head, dirty = provenance.commit(root)
    return {
        "scale": workspace.scale,
        "scale_says": workspace.scales[workspace.scale].says,
        "commit": head[:12],
        "dirty": dirty,
        "date": provenance.now()[:10],
        "papers": {
            key: {"title": p.title, "package": p.package, "year": p.year} for key, p in workspace.papers.items()
        },
        "ledger": ledger,
        "verdicts": Counter(row["verdict"] for row in ledger),
        "packages": [
            {
                "name": name,
                "experiments": [e for e in experiments if e["package"] == name],
                "prose": (root / "paper" / "sections" / f"{name}.typ").exists(),
            }
            for name in workspace.packages
        ],
        "runs": sum(e["runs"] for e in experiments),
        "core_minutes": sum(e["seconds"] for e in experiments) / 60,
        "machines": _machines(facts),
        "older_code": sum(_older_code(paths, e) for e in workspace.experiments.values()),
        "versions": facts[-1]["versions"] if facts else provenance.versions(),
        "python": facts[-1]["python"] if facts else None,
        "datasets": [entry for entry in data.describe() if entry["name"] in _used(workspace)],
    }


def _used(workspace: Workspace) -> set[str]:
    return {choice.uses for e in workspace.experiments.values() for choice in e.datasets.values()}


def _column(paths: Paths, experiment: Experiment, name: str) -> list[Any]:
    path = paths.collected(experiment.key)
    return pq.read_table(path, columns=[name]).column(name).to_pylist() if path.exists() else []


def _older_code(paths: Paths, experiment: Experiment) -> int:
    path = paths.collected(experiment.key)
    return records.read_notes(path)[1] if path.exists() else 0


def _experiment(experiment: Experiment, paths: Paths, ledger: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = _column(paths, experiment, "seconds")
    tuning = experiment.tuning.trials if experiment.tuning else 0
    return {
        "package": experiment.package,
        "name": experiment.name,
        "key": experiment.key,
        "title": experiment.title,
        "question": experiment.question,
        "seeds": experiment.seeds,
        "trials": tuning,
        "exclusive": experiment.exclusive,
        "datasets": list(experiment.datasets),
        "methods": list(experiment.methods),
        "papers": sorted(experiment.papers),
        "figures": [{"name": name, "caption": caption} for name, caption in experiment.figures.items()],
        "claims": [
            row["claim"]
            for row in ledger
            if (row["package"], row["experiment"]) == (experiment.package, experiment.name)
        ],
        "runs": len(seconds),
        "seconds": sum(seconds),
    }


def _machines(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each machine and commit that records come from, with the number of runs."""

    def identity(fact: dict[str, Any]) -> tuple:
        return (
            fact.get("cpu"),
            fact.get("cores"),
            fact.get("gpu"),
            str(fact.get("commit"))[:12],
            bool(fact.get("dirty")),
        )

    counts = Counter(identity(fact) for fact in facts)
    keys = ("cpu", "cores", "gpu", "commit", "dirty")
    return [dict(zip(keys, key, strict=True)) | {"runs": runs} for key, runs in counts.most_common()]


def build(root: Path, scale: str, output: Path) -> None:
    """Write the generated inputs and compile the PDF, atomically. Raises PaperError with Typst's message."""
    import typst

    workspace = load(root, scale)
    generated = root / "paper" / "generated" / scale
    generated.mkdir(parents=True, exist_ok=True)
    record.write_text(generated / "data.json", json.dumps(gather(workspace, root), ensure_ascii=False, indent=1))
    record.write_text(generated / "papers.yaml", papers.to_hayagriva(workspace.papers))
    record.write_text(generated / "papers.bib", papers.to_bibtex(workspace.papers))
    try:
        pdf = typst.compile(root / "paper" / "paper.typ", root=root, sys_inputs={"scale": scale})
    except Exception as error:
        raise PaperError(f"paper/paper.typ: {error}") from error
    with record.atomic(output) as temporary:
        temporary.write_bytes(pdf)


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(prog="python -m tensorbench.core.paper", description=__doc__)
    arguments.add_argument("--scale", default=DEFAULT_SCALE)
    arguments.add_argument("--root", type=Path, default=Path("."))
    arguments.add_argument("--output", type=Path, default=Path("paper/paper.pdf"))
    arguments.add_argument("--log", type=Path)
    given = arguments.parse_args(argv)
    set_up_logging(given.log)
    data.discover()
    try:
        build(given.root.resolve(), given.scale, given.output)
    except (PaperError, ValueError, record.RecordError) as error:
        log.error("%s", error)
        return 1
    log.info("wrote %s", given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
