# Records: the tracking store, tuning trials, and the seeded runs. One job runs all seeds of one method on one dataset.


def tuned(wildcards):
    experiment = experiment_of(wildcards)
    folder = f"results/{wildcards.scale}/{experiment.key}/{wildcards.dataset}"
    return [f"{folder}/{wildcards.method}.tuned.json"] if experiment.is_tuned(wildcards.method) else []


def job_hash(wildcards):
    return experiment_of(wildcards).job_hash(wildcards.dataset, wildcards.method)


def job_threads(wildcards):
    # An experiment that measures time takes every core, so that nothing runs beside it; it computes with its own few.
    experiment = experiment_of(wildcards)
    return max(experiment.threads, workflow.cores or 1) if experiment.exclusive else experiment.threads


def job_gpus(wildcards):
    return 1 if experiment_of(wildcards).device == "gpu" else 0


def job_memory(wildcards):
    return experiment_of(wildcards).memory_mib


def job_minutes(wildcards):
    return experiment_of(wildcards).minutes


rule store:
    output:
        touch("results/store.ready"),
    log:
        "results/store.log",
    conda:
        "../../environment.yml"
    message:
        "Preparing the MLflow store"
    shell:
        "{PYTHON} -m tensorbench.core.tracking init > {log} 2>&1"


rule tune:
    input:
        store=ancient("results/store.ready"),
    output:
        "results/{scale}/{package}/{experiment}/{dataset}/{method}.tuned.json",
    params:
        config=job_hash,
    threads: job_threads
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    log:
        "results/{scale}/{package}/{experiment}/{dataset}/{method}.tuning.log",
    conda:
        "../../environment.yml"
    message:
        "Tuning {wildcards.method} on {wildcards.dataset} ({wildcards.package}/{wildcards.experiment}, {wildcards.scale})"
    shell:
        "{PYTHON} -m tensorbench.core.run {wildcards.package}/{wildcards.experiment} {wildcards.dataset} {wildcards.method}"
        " --scale {wildcards.scale} --tune --threads {threads} --log {log}"


rule run:
    input:
        tuned,
        store=ancient("results/store.ready"),
    output:
        "results/{scale}/{package}/{experiment}/{dataset}/{method}.parquet",
    params:
        config=job_hash,
    threads: job_threads
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
    log:
        "results/{scale}/{package}/{experiment}/{dataset}/{method}.log",
    conda:
        "../../environment.yml"
    message:
        "{wildcards.method} on {wildcards.dataset} ({wildcards.package}/{wildcards.experiment}, {wildcards.scale})"
    shell:
        "{PYTHON} -m tensorbench.core.run {wildcards.package}/{wildcards.experiment} {wildcards.dataset} {wildcards.method}"
        " --scale {wildcards.scale} --threads {threads} --log {log}"
