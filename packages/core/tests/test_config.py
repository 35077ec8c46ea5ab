"""Configs: what is accepted, what each mistake says, how scales override."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tensorbench.core.config import ConfigError, load

NAMES = {"toy_line"}


def test_scales_resolve(toy):
    desk = load(toy.root, "desk").experiment("toy/line")
    smoke = load(toy.root, "smoke").experiment("toy/line")
    assert (desk.seeds, smoke.seeds) == (3, 1)
    assert desk.datasets["toy_line"].params == {"slope": 3.0}
    assert smoke.datasets["toy_line"].params == {"slope": 3.0, "points": 10}
    assert desk.is_tuned("least_squares") and not desk.is_tuned("mean_only")
    assert desk.papers == {"alpha"}


def test_the_hash_follows_what_decides_the_outcome_and_nothing_else(toy, edit):
    before = load(toy.root).experiment("toy/line").job_hash("toy_line", "mean_only")
    edit(toy.config, "Fitting a line", "Another title")
    assert load(toy.root).experiment("toy/line").job_hash("toy_line", "mean_only") == before
    edit(toy.config, "slope: 3.0", "slope: 4.0")
    assert load(toy.root).experiment("toy/line").job_hash("toy_line", "mean_only") != before


def test_subset_and_drop(toy, edit):
    edit(toy.config, "smoke: {datasets", "smoke: {methods: {mean_only: false}, datasets")
    assert list(load(toy.root, "smoke").experiment("toy/line").methods) == ["least_squares"]
    edit(toy.config, "methods: {mean_only: false}", "methods: [mean_only]")
    assert list(load(toy.root, "smoke").experiment("toy/line").methods) == ["mean_only"]


MISTAKES = {
    "unknown key": ("seeds: 3", "seed: 3", ["configs/toy/line.yaml", "seed", "did you mean 'seeds'"]),
    "unknown method in a claim": ("over: mean_only", "over: mean_onli", ["alpha.fits", "did you mean 'mean_only'"]),
    "unknown method in the module": (
        "mean_only: {}",
        "mean_only: {}\n  median: {}",
        ["unknown method of line.py 'median'"],
    ),
    "unknown dataset": (
        "datasets: {toy_line: {slope",
        "datasets: {toy_lime: {slope",
        ["unknown dataset 'toy_lime'", "'toy_line'"],
    ),
    "unknown dataset of a scale": (
        "datasets: {toy_line: {points",
        "datasets: {toy: {points",
        ["scales.smoke.datasets"],
    ),
    "unknown paper": ("paper: alpha, says: The", "paper: alpa, says: The", ["did you mean 'alpha'"]),
    "unknown metric in a claim": ("{metric: finite}", "{metric: finit}", ["unknown metric 'finit'", "'finite'"]),
    "unknown metric of the table": ("table: [rmse]", "table: [mse]", ["table", "unknown metric 'mse'"]),
    "unknown scale": ("  smoke: {datasets", "  smoky: {datasets", ["did you mean 'smoke'"]),
    "two claims with one id": ("id: alpha.finite", "id: alpha.fits", ["two claims are called 'alpha.fits'"]),
    "a search without tuning": ("tuning: {trials: 2, metric: valid_rmse}\n", "", ["needs `tuning:"]),
    "a bound of the wrong kind": ("at_most: 0.5", "at_most: half", ["claims[0]", "at_most"]),
    "a key twice": ("seeds: 3", "seeds: 3\nseeds: 4", ["'seeds' is written twice", "line"]),
    "not YAML": ("seeds: 3", "seeds: [3", ["configs/toy/line.yaml", "line"]),
    "a name that is no name": ("mean_only: {}", "mean/only: {}", ["mean/only"]),
    "a search space that is none": (
        "ridge: [0.0, 10.0]",
        "ridge: {log_unifrm: [1, 2]}",
        ["methods.least_squares.search"],
    ),
    "another method in a scale": (
        "smoke: {datasets",
        "smoke: {methods: {mean_only: {uses: x}}, datasets",
        ["not `uses`"],
    ),
    "a metric named like a column": ("rmse: minimize, v", "rmse: minimize, seed: minimize, v", ["metrics.seed"]),
    "no seeds": ("seeds: 3", "seeds: 0", ["seeds", "greater than or equal to 1"]),
}


@pytest.mark.parametrize("old, new, words", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_teach(toy, edit, old, new, words):
    edit(toy.config, old, new)
    with pytest.raises(ConfigError) as caught:
        load(toy.root, dataset_names=NAMES)
    for word in words:
        assert word in str(caught.value)


def test_a_claim_about_a_job_that_the_config_excludes(toy, edit):
    edit(toy.config, "mean_only: {}", "mean_only: {datasets: []}")
    load(toy.root)
    edit(toy.config, "over: mean_only, ", "over: mean_only, dataset: toy_line, ")
    with pytest.raises(ConfigError, match=r"alpha\.fits.*method mean_only does not take dataset toy_line"):
        load(toy.root)


def test_all_problems_come_in_one_message(toy, edit):
    edit(toy.config, "seeds: 3", "seeds: -1")
    edit(toy.config, "table: [rmse]", "tabel: [rmse]")
    with pytest.raises(ConfigError, match="2 problems") as caught:
        load(toy.root)
    assert "seeds" in str(caught.value) and "'table'" in str(caught.value)


@pytest.mark.parametrize(
    "broken, words",
    [
        ("def run(", ["has no function `run`"]),
        ("def figures(", ["has no function `figures`"]),
    ],
    ids=["no run", "no figures"],
)
def test_a_module_that_lacks_a_function(toy, edit, broken, words):
    edit(toy.module, broken, broken.replace("def ", "def other_"))
    with pytest.raises(ConfigError) as caught:
        load(toy.root)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_module_and_a_broken_one(toy):
    toy.module.write_text("def run(:\n")
    with pytest.raises(ConfigError, match=r"line\.py, line 1"):
        load(toy.root)
    toy.module.unlink()
    with pytest.raises(ConfigError, match="one YAML file and one module"):
        load(toy.root)


def test_unknown_scale_and_experiment(toy):
    with pytest.raises(ConfigError, match="unknown scale 'dsk'; did you mean 'desk'"):
        load(toy.root, "dsk")
    with pytest.raises(ConfigError, match="unknown experiment 'toy/lien'; did you mean 'toy/line'"):
        load(toy.root, only="toy/lien")


def test_numbers_like_1e_minus_3_are_numbers(toy, edit):
    edit(toy.config, "slope: 3.0", "slope: 1e-3")
    assert load(toy.root).experiment("toy/line").datasets["toy_line"].params["slope"] == 1e-3


def test_reading_configs_imports_neither_torch_nor_mlflow():
    code = (
        "import sys, tensorbench.core.workflow, tensorbench.core.config;"
        "print([m for m in ('torch', 'mlflow', 'pandas', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
