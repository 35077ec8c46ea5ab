"""The workspace as a whole: packages stay apart, pins do not drift, every config is valid, every paper is listed."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tensorbench.core import data
from tensorbench.core.config import load

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([A-Za-z0-9_.\-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M)
}


DISTRIBUTIONS = importlib.metadata.packages_distributions()


def requirements() -> dict[str, list[Requirement]]:
    """Third-party requirements by where they are declared."""
    found = {}
    for package in PACKAGES:
        project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
        extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
        found[package] = [Requirement(line) for line in project["dependencies"] + extras]
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    found["requirements-dev.txt"] = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {where: [r for r in rs if not r.name.startswith("tensorbench")] for where, rs in found.items()}


@pytest.mark.parametrize("where", requirements())
def test_every_requirement_is_pinned_within_its_range(where):
    for requirement in requirements()[where]:
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{where} needs {requirement.name}, which constraints.txt does not pin"
        assert requirement.specifier.contains(PINS[name]), f"{where}: {requirement} but the pin is {PINS[name]}"


def test_what_is_installed_is_what_is_pinned():
    names = {canonicalize_name(r.name) for rs in requirements().values() for r in rs}
    for name in sorted(names):
        assert importlib.metadata.version(name).split("+")[0] == PINS[name], name


def test_conda_users_get_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "python=3.11" in environment["dependencies"]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    expected = {"-c constraints.txt", "-r requirements-dev.txt", *(f"-e ./packages/{p}[all]" for p in PACKAGES)}
    assert set(pip) == expected


@pytest.mark.parametrize("package", PACKAGES)
def test_all_installs_every_extra(package):
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = {extra for line in extras["all"] for extra in Requirement(line).extras}
    assert listed == set(extras) - {"all"}


def import_statements(path: Path, *, inside_functions: bool = True) -> Iterator[tuple[int, str]]:
    """Every module named by an import statement of the file, with its level: 0 where it is absolute."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if not inside_functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
            yield from ((node.level, f"{node.module}.{alias.name}") for alias in node.names)
        pending += ast.iter_child_nodes(node)


def imports(path: Path) -> set[str]:
    """Every module named by an import statement of the file, absolute or relative to nothing."""
    return {name for _, name in import_statements(path)}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_core_and_no_sibling(package):
    allowed = {package, "core"}
    for path in (ROOT / "packages" / package / "src").rglob("*.py"):
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "tensorbench" and len(parts) > 1:
                assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("package", [p for p in PACKAGES if p != "core"])
def test_methods_know_nothing_of_the_workflow(package):
    """What a notebook imports has no config, no MLflow and no records behind it."""
    source = ROOT / "packages" / package / "src" / "tensorbench" / package
    forbidden = ("mlflow", "snakemake", "tensorbench.core.run", "tensorbench.core.records", "tensorbench.core.tracking")
    for path in source.rglob("*.py"):
        if {"experiments", "datasets"} & set(path.relative_to(source).parts):
            continue
        bad = {module for module in imports(path) if module.startswith(forbidden)}
        assert not bad, f"{path.relative_to(ROOT)} imports {bad}"


def third_party(path: Path, *, inside_functions: bool) -> set[str]:
    """First names of the imported modules that are neither Python's nor the workspace's."""
    statements = import_statements(path, inside_functions=inside_functions)
    return {name.split(".")[0] for level, name in statements if level == 0} - sys.stdlib_module_names - {"tensorbench"}


def declared(package: str) -> tuple[set[str], set[str]]:
    """Names of the distributions that come with the package (core's come too), and of those that its extras bring."""
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    plain = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    lines = [line for extra in project.get("optional-dependencies", {}).values() for line in extra]
    return plain if package == "core" else plain | declared("core")[0], {
        canonicalize_name(Requirement(line).name) for line in lines
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_whatever_is_imported_is_declared(package):
    """What a module needs to be read comes with the package; functions and experiments may need an extra."""
    plain, extra = declared(package)
    for path in (ROOT / "packages" / package / "src").rglob("*.py"):
        needed = set() if "experiments" in path.parts else third_party(path, inside_functions=False)
        for module in third_party(path, inside_functions=True):
            names = {canonicalize_name(name) for name in DISTRIBUTIONS.get(module, [module])}
            where = f"{path.relative_to(ROOT)} imports {module}, of {', '.join(names)}"
            assert names & (plain | extra), f"{where}, which {package}/pyproject.toml does not declare"
            assert module not in needed or names & plain, f"{where}, which only an extra brings"


def test_no_package_owns_the_namespace():
    assert not list(ROOT.glob("packages/*/src/tensorbench/__init__.py"))


@pytest.mark.parametrize("scale", ["smoke", "desk", "full"])
def test_every_config_is_valid_and_smoke_has_a_dataset_that_is_always_there(scale):
    data.discover()
    workspace = load(ROOT, scale, dataset_names=data.names())
    assert len(workspace.papers) == 119
    for experiment in workspace.experiments.values():
        assert any(data.get(choice.uses).kind != "downloaded" for choice in experiment.datasets.values()), (
            experiment.key
        )
        for choice in experiment.datasets.values():
            data.check_parameters(choice.uses, choice.params)
