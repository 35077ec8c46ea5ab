# The paper: the last node of the graph.


localrules:
    pdf,
    published,
    tracked,
    sync,


rule pdf:
    input:
        reports_of,
        ledger="results/{scale}/claims.json",
        source="paper/paper.typ",
        library="paper/lib.typ",
        sections=glob("paper/sections/*.typ"),
    output:
        report("results/{scale}/paper.pdf", category="Paper", caption="../report/paper.rst"),
    log:
        "results/{scale}/paper.log",
    conda:
        "../../environment.yml"
    message:
        "Setting the paper ({wildcards.scale})"
    shell:
        "python -m tensorbench.core.warm paper --scale {wildcards.scale} --output {output} --log {log}"


rule published:
    input:
        f"results/{SCALE}/paper.pdf",
    output:
        "paper/paper.pdf",
    params:
        scale=SCALE,
    log:
        "results/published.log",
    conda:
        "../../environment.yml"
    message:
        "paper/paper.pdf is the paper at scale {params.scale}"
    shell:
        "cp {input} {output} 2> {log}"


rule tracked:
    input:
        reports_of,
        store=ancient("results/store.ready"),
    output:
        touch("results/{scale}/tracked.ready"),
    log:
        "results/{scale}/tracked.log",
    conda:
        "../../environment.yml"
    message:
        "Putting figures and verdicts into MLflow ({wildcards.scale})"
    shell:
        "python -m tensorbench.core.warm report track --scale {wildcards.scale} --log {log}"


rule sync:
    input:
        store="results/store.ready",
    params:
        scale=SCALE,
    log:
        "results/sync.log",
    conda:
        "../../environment.yml"
    message:
        "Logging to MLflow what it lacks"
    shell:
        "(python -m tensorbench.core.tracking sync && python -m tensorbench.core.warm report track --scale {params.scale})"
        " 2>&1 | tee {log}"
