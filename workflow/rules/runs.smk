# `conda:` names the environment that a user creates beforehand (conda env create -f environment.yml); its relative paths do
# not survive Snakemake's own --sdm conda.
# Records: the tracking store and the runs. One job does all seeds of one method on one dataset, and its tuning trials before
# (each kept by itself, so that an interrupted tuning resumes).


localrules:
    store,


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
        "python -m tensorbench.core.tracking init > {log} 2>&1"


rule run:
    input:
        store=ancient("results/store.ready"),
        own=own_files,
    output:
        "results/{scale}/{package}/{experiment}/{dataset}/{method}.parquet",
    params:
        config=job_hash,
    threads: job_threads
    priority: job_priority
    resources:
        gpu=job_gpus,
        mem_mb=job_memory,
        runtime=job_minutes,
        slurm_extra=slurm_extra,
    log:
        "results/{scale}/{package}/{experiment}/{dataset}/{method}.log",
    conda:
        "../../environment.yml"
    message:
        "{wildcards.method} on {wildcards.dataset} ({wildcards.package}/{wildcards.experiment}, {wildcards.scale})"
    shell:
        "python -m tensorbench.core.warm run {wildcards.package}/{wildcards.experiment} {wildcards.dataset} {wildcards.method}"
        " --scale {wildcards.scale} --threads {threads} --log {log}"
