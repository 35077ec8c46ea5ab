# From records to one tidy table, verdicts, a table and figures per experiment; then the ledger over all of them.


localrules:
    collect,
    ledger,


rule collect:
    input:
        records_of,
    output:
        parquet="results/{scale}/{package}/{experiment}.parquet",
        csv="results/{scale}/{package}/{experiment}.csv",
    log:
        "results/{scale}/{package}/{experiment}.collect.log",
    conda:
        "../../environment.yml"
    message:
        "Collecting {wildcards.package}/{wildcards.experiment} ({wildcards.scale})"
    shell:
        "python -m tensorbench.core.warm report collect {wildcards.package}/{wildcards.experiment}"
        " --scale {wildcards.scale} --log {log}"


# One rule per experiment, because each has figures of its own names.
for e in EXPERIMENTS:

    rule:
        localrule: True
        name:
            f"report_{e.package}_{e.name}"
        input:
            records=f"results/{{scale}}/{e.key}.parquet",
            code=tb.report_sources(e.package),
        output:
            claims=f"results/{{scale}}/{e.key}.claims.json",
            tables=expand(f"paper/tables/{{{{scale}}}}/{e.key}{{suffix}}", suffix=tb.TABLE_FORMATS),
            plots=[f for f in tb.figure_files("{scale}", e) if not f.endswith(".svg")],
            figures=report(
                [f for f in tb.figure_files("{scale}", e) if f.endswith(".svg")],
                category=e.package,
                subcategory=e.title,
                caption="../report/figure.rst",
            ),
        params:
            experiment=e.key,
            title=e.title,
            captions=e.figures,
            report_config=report_hash(e.package, e.name),
            strict=STRICT,
        log:
            f"results/{{scale}}/{e.key}.report.log",
        conda:
            "../../environment.yml"
        message:
            "Verdicts, table and figures of {params.experiment} ({wildcards.scale})"
        shell:
            "python -m tensorbench.core.warm report experiment {params.experiment} --scale {wildcards.scale}"
            " --log {log} {params.strict}"


rule ledger:
    input:
        lambda wildcards: [tb.claims_file(wildcards.scale, e.key) for e in EXPERIMENTS],
        papers="configs/papers.yaml",
    output:
        csv=report("results/{scale}/claims.csv", category="Ledger", caption="../report/ledger.rst"),
        json="results/{scale}/claims.json",
        tables=expand("paper/tables/{{scale}}/ledger{suffix}", suffix=tb.TABLE_FORMATS),
    log:
        "results/{scale}/claims.log",
    conda:
        "../../environment.yml"
    message:
        "Writing the ledger of all claims ({wildcards.scale})"
    shell:
        "python -m tensorbench.core.warm report ledger --scale {wildcards.scale} --log {log}"
