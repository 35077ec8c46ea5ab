# What the rules share: the scale, the plan made from the configs, and what happens when a job fails.
import os
import sys
from glob import glob

from tensorbench.core import data
from tensorbench.core import workflow as tb
from tensorbench.core.config import ConfigError
from tensorbench.core.errors import unknown
from tensorbench.core.warm import keep_warm

KEYS = ["scale", "partial", "strict"]
for key in config:
    if key not in KEYS:
        raise WorkflowError(unknown("config key", key, KEYS))

tb.use_this_interpreter()
TARGETS = tb.typed_targets(tuple(sys.argv))
SCALE = "smoke" if "smoke" in TARGETS else str(config.get("scale", "desk"))
PARTIAL = bool(int(config.get("partial", 0)))
STRICT = "--strict" if int(config.get("strict", 0)) else ""


def plan(scale):
    return tb.plan(scale, partial=PARTIAL)


try:
    PLAN = plan(SCALE)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

# Libraries that most jobs import, and nothing of ours: a fork must see the code as it is when it starts.
WARM = ["numpy", "scipy.stats", "scipy.optimize", "scipy.sparse.linalg", "pandas", "pyarrow.parquet", "torch", "mlflow.tracking"]
WARM += ["mlflow.store.tracking.sqlalchemy_store", "matplotlib.pyplot", "pydantic", "tensorly", "sklearn.ensemble"]
WARM += ["matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg", "fontTools.subset", "networkx", "numba"]
WARM += ["jaxtyping", "filelock", "alembic.command", "sqlalchemy.dialects.sqlite", "pyarrow.pandas_compat"]
WARM += ["torch._dynamo"]  # which a process's first torch optimizer imports: more than a second

EXPERIMENTS = list(PLAN.workspace.experiments.values())


wildcard_constraints:
    scale="|".join(PLAN.workspace.scales),
    package="[^/]+",
    experiment="[^/]+",
    dataset="[^/]+",
    method="[^/]+",


def experiment_of(wildcards):
    return plan(wildcards.scale).experiment(wildcards.package, wildcards.experiment)


def job_hash(wildcards):
    return experiment_of(wildcards).job_hash(wildcards.dataset, wildcards.method)


def own_files(wildcards):
    # A file that a config names is an input: edited in place, its jobs run again. A missing one is the run's own error.
    choice = experiment_of(wildcards).datasets.get(wildcards.dataset)
    return [path for path in data.own_files(choice.uses, choice.params) if os.path.isfile(path)] if choice else []


def on_cluster():
    return workflow.nodes is not None


def job_threads(wildcards):
    # An experiment that measures time takes every core, so that nothing runs beside it; it computes with its own few.
    experiment = experiment_of(wildcards)
    if experiment.exclusive and not on_cluster():
        return max(experiment.threads, workflow.cores or 1)
    return experiment.threads


def job_priority(wildcards):
    # Runs that need the machine for themselves come first: what follows them (tables, figures) then fills cores beside others.
    return 1 if experiment_of(wildcards).exclusive else 0


def slurm_extra(wildcards):
    # On a cluster the scheduler keeps the node free for it instead.
    return "--exclusive" if experiment_of(wildcards).exclusive else ""


def job_gpus(wildcards):
    return 1 if experiment_of(wildcards).device == "gpu" else 0


def job_memory(wildcards):
    return experiment_of(wildcards).memory_mib


def job_minutes(wildcards):
    return experiment_of(wildcards).minutes


def records_of(wildcards):
    return plan(wildcards.scale).job_files(experiment_of(wildcards))


def report_hash(package, name):
    def of_scale(wildcards):
        return tb.report_hash(plan(wildcards.scale).experiment(package, name), plan(wildcards.scale).workspace)

    return of_scale


def reports_of(wildcards):
    return plan(wildcards.scale).reports(EXPERIMENTS)


onstart:
    if workflow.local_exec and not workflow.subprocess_exec:  # here, on one machine
        # Snakemake's limit of 100 starts a second looks at all waiting jobs again a second after each look, with one more
        # such chain for every job that ends: hundreds of looks a second among hundreds of jobs, and a second at the end.
        workflow.scheduler.job_rate_limiter = None
        # Importing libraries would take longer than most jobs do: it is done once for all of them.
        if len(workflow.dag) > 3:
            keep_warm(WARM)


onerror:
    # A failed run sinks nobody else: with what is there, the ledger says what was not measured and why.
    if not PARTIAL:
        tb.finish_without_failed_runs(PLAN, workflow.dag_settings.targets, config, workflow.cores)
