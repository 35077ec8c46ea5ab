# A thin door: every target is one line that calls snakemake, pytest or mlflow, which you can call directly once the
# virtual environment is active (source .venv/bin/activate).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SCALE  ?= desk
JOBS   ?= all
BIN    := .venv/bin
PACKAGES := $(patsubst %/pyproject.toml,%,$(wildcard packages/*/pyproject.toml))
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup paper test lint ui clean

help:            ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/installed  ## .venv with the workspace at pinned versions

.venv/installed: constraints.txt requirements-dev.txt $(addsuffix /pyproject.toml,$(PACKAGES))
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed, this is " + sys.version.split()[0] + "; say make PYTHON=/path/to/python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "python3 -m venv failed; on Debian: apt install python3.11-venv"; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -r requirements-dev.txt $(foreach p,$(PACKAGES),-e './$(p)[all]')
	@touch $@

paper: setup     ## run everything at SCALE=desk (or smoke, full) on JOBS cores, leave paper/paper.pdf
	$(BIN)/snakemake paper --cores $(JOBS) --config scale=$(SCALE)

test: setup      ## the whole test suite, in parallel
	$(ONE_THREAD) $(BIN)/python -m pytest --dist loadgroup -n $(if $(filter all,$(JOBS)),auto,$(JOBS))

lint: setup      ## ruff, mypy, snakemake --lint
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy packages/core/src && $(BIN)/snakemake --lint

ui: setup        ## the MLflow UI on the store
	$(BIN)/python -m tensorbench.core.tracking ui

clean:           ## remove everything generated (records too!)
	rm -rf results paper/figures paper/tables paper/generated paper/paper.pdf .snakemake
