"""The workflow on the toy: from nothing to the paper, and what is redone after a change, a failure or a kill."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def ledger(toy, scale: str = "desk") -> dict[str, dict[str, str]]:
    with open(toy.root / "results" / scale / "claims.csv") as file:
        return {row["claim"] or row["paper"]: row for row in csv.DictReader(file)}


def planned(toy, *arguments: str) -> str:
    return toy.snakemake(*arguments, "-n", "--quiet", "host").stdout


@pytest.mark.timeout(600)
def test_from_nothing_to_the_paper_and_only_what_changed_again(toy, edit):
    toy.snakemake(timeout=300)
    first = ledger(toy)
    assert first["alpha.fits"]["verdict"] == "reproduced"
    assert first["beta"]["verdict"] == "not implemented yet"
    assert (toy.root / "paper" / "paper.pdf").read_bytes().startswith(b"%PDF")
    for suffix in (".csv", ".md", ".tex"):
        assert (toy.root / "paper" / "tables" / "desk" / "toy" / f"line{suffix}").stat().st_size > 0
    assert "Nothing to be done" in planned(toy)
    toy.snakemake("--report", "report.html")
    assert "Fitting a line" in (toy.root / "report.html").read_text(errors="replace")
    # A changed title redoes the report, not the runs; a changed parameter redoes the jobs that it concerns.
    edit(toy.config, "Fitting a line", "Fitting lines")
    plan = planned(toy)
    assert "report_toy_line" in plan and "\nrun " not in plan
    edit(toy.config, "mean_only: {}", "mean_only: {}\n  zero: {uses: mean_only}")
    plan = planned(toy)
    assert "run " in plan and "zero on toy_line" in plan and "mean_only on toy_line" not in plan


@pytest.mark.timeout(600)
def test_a_file_that_a_config_names_is_an_input(toy, edit):
    datasets = toy.module.parents[1] / "datasets.py"
    edit(datasets, "slope: float = 2.0", "slope: float = 2.0, notes: str = ''")
    edit(datasets, "generated=True)", "generated=True, reads=['notes'])")
    edit(toy.config, "{slope: 3.0}", "{slope: 3.0, notes: mine.txt}")
    (toy.root / "mine.txt").write_text("1")
    record = "results/smoke/toy/line/toy_line/mean_only.parquet"
    toy.snakemake(record, "--config", "scale=smoke", timeout=300)
    assert "Nothing to be done" in planned(toy, record, "--config", "scale=smoke")
    (toy.root / "mine.txt").write_text("2")
    assert "mean_only on toy_line" in planned(toy, record, "--config", "scale=smoke")


@pytest.mark.timeout(600)
def test_labels_are_an_experiments_own(toy, edit):
    other = toy.config.with_name("other.yaml")
    text = toy.config.read_text().replace("alpha.", "alpha.other_")
    other.write_text(text + "labels: {mean_only: Another meaning}\n")
    toy.module.with_name("other.py").write_text(toy.module.read_text())
    edit(toy.config, "seeds: 3", "seeds: 1\nlabels: {mean_only: The mean}")
    toy.snakemake("toy/line", "toy/other", "--config", "scale=smoke", timeout=300)
    tables = [(toy.root / "paper/tables/smoke/toy" / f"{name}.md").read_text() for name in ("line", "other")]
    assert ["The mean" in table for table in tables] == [True, False]
    assert ["Another meaning" in table for table in tables] == [False, True]


@pytest.mark.timeout(600)
def test_a_record_of_an_older_schema_is_told_and_decides_nothing(toy):
    toy.snakemake("toy/line", timeout=300)
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"tensorbench.schema": "0"}), toy.record())
    done = toy.snakemake("claims", timeout=300)
    assert "was written with record schema 0" in done.stdout + done.stderr
    row = ledger(toy)["alpha.fits"]
    assert row["verdict"] == "not measured" and "record schema 0" in row["note"]


@pytest.mark.timeout(600)
def test_a_failed_run_sinks_nobody_and_is_the_only_thing_redone(toy):
    done = toy.snakemake("claims", check=False, timeout=300, TOY_FAIL="mean_only")
    assert done.returncode != 0
    rows = ledger(toy)
    assert rows["alpha.fits"]["verdict"] == "not measured"
    assert "the toy was told to fail" in rows["alpha.fits"]["note"]
    stamp = toy.record("least_squares").stat().st_mtime_ns
    toy.snakemake("claims", timeout=300)
    assert ledger(toy)["alpha.fits"]["verdict"] == "reproduced"
    assert toy.record("least_squares").stat().st_mtime_ns == stamp


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["killed", "not importable", "a record only"])
def test_every_way_to_fail_leaves_a_ledger_that_says_so(toy, edit, how):
    if how == "not importable":
        edit(toy.module, "import numpy as np", "import numpy as np\nimport no_such_library")
    else:
        kill = "    if run.method.name == 'mean_only':\n        os.kill(os.getpid(), 9)\n"
        edit(toy.module, "def run(run):\n", f"def run(run):\n{kill}")
    target = "results/smoke/toy/line/toy_line/mean_only.parquet" if how == "a record only" else "smoke"
    done = toy.snakemake(target, check=False, timeout=300)
    assert done.returncode != 0
    if how == "a record only":
        assert not (toy.root / "paper" / "paper.pdf").exists() and not (toy.root / "results/smoke/claims.csv").exists()
        return
    row = ledger(toy, "smoke")["alpha.fits"]
    assert row["verdict"] == "not measured"
    assert ("no_such_library" if how == "not importable" else "ended without a word") in row["note"]
    assert (toy.root / "results/smoke/paper.pdf").exists()


@pytest.mark.timeout(600)
def test_pulling_the_plug_and_running_again_gives_the_same_ledger(toy):
    toy.snakemake("claims", timeout=300)
    whole = {key: row["measured"] for key, row in ledger(toy).items()}
    subprocess.run(["rm", "-rf", str(toy.root / "results"), str(toy.root / "paper" / "tables")], check=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "claims", "--cores", "2"],
        cwd=toy.root,
        env=toy.environment(TOY_SLEEP="2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    trials = toy.record("least_squares", suffix=".trials")
    deadline = time.time() + 120
    while not (trials.exists() and any(trials.iterdir())):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)  # Snakemake and its jobs, at once
    process.wait(timeout=10)
    assert not toy.record("least_squares").exists()
    toy.snakemake("--unlock")
    toy.snakemake("claims", timeout=300)
    assert {key: row["measured"] for key, row in ledger(toy).items()} == whole


def test_mistakes_stop_the_workflow_before_any_job(toy, edit):
    done = toy.snakemake("-n", "toy/lime", check=False)
    assert done.returncode != 0 and "unknown target 'toy/lime'; did you mean 'toy/line'" in done.stdout + done.stderr
    done = toy.snakemake("-n", "--config", "scale=dekk", check=False)
    assert done.returncode != 0 and "unknown scale 'dekk'; did you mean 'desk'" in done.stdout + done.stderr
    done = toy.snakemake("-n", "results/desk/toy/line/toy_line/mean_onli.parquet", check=False)
    assert done.returncode != 0 and "unknown method 'mean_onli'; did you mean 'mean_only'" in done.stdout + done.stderr
    done = toy.snakemake("-n", "--config", "scle=smoke", check=False)
    assert done.returncode != 0 and "unknown config key 'scle'; did you mean 'scale'" in done.stdout + done.stderr
    edit(toy.config, "slope: 3.0", "slop: 3.0")
    done = toy.snakemake("-n", check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "datasets.toy_line" in said and "'slope'" in said
    edit(toy.config, "slop: 3.0", "slope: 3.0")
    edit(toy.config, "over: mean_only", "over: mean_onli")
    done = toy.snakemake("-n", check=False)
    assert done.returncode != 0 and "unknown method 'mean_onli'" in done.stdout + done.stderr
    assert not (toy.root / "results").exists()


@pytest.mark.parametrize(
    "target",
    [
        "toy",
        "toy/line",
        "alpha",
        "claims",
        "figures",
        "smoke",
        "paper",
        "results/desk/toy/line.parquet",
        "paper/figures/desk/toy/line/rmse.pdf",
    ],
)
def test_every_name_that_a_person_types_is_a_target(toy, target):
    assert re.search(r"^run\s+\d+$", planned(toy, target), flags=re.M)
