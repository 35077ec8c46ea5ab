# What the rules share: the scale, the plan made from the configs, and what happens when a job fails.
import sys

from tensorbench.core import workflow as tb
from tensorbench.core.config import ConfigError

PYTHON = sys.executable
SCALE = str(config.get("scale", "desk"))
PARTIAL = bool(int(config.get("partial", 0)))
STRICT = "--strict" if int(config.get("strict", 0)) else ""


def plan(scale):
    return tb.plan(scale, partial=PARTIAL)


try:
    PLAN = plan(SCALE)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

EXPERIMENTS = list(PLAN.workspace.experiments.values())


wildcard_constraints:
    scale="|".join(PLAN.workspace.scales),
    package="[^/]+",
    experiment="[^/]+",
    dataset="[^/]+",
    method="[^/]+",


def experiment_of(wildcards):
    return plan(wildcards.scale).experiment(wildcards.package, wildcards.experiment)


onerror:
    # A failed run sinks nobody else: with what is there, the ledger says what was not measured and why.
    if not PARTIAL:
        tb.finish_without_failed_runs(SCALE, workflow.dag_settings.targets, PYTHON)
