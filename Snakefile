# tensorbench: from the configs to the paper. `snakemake` builds paper/paper.pdf at the default scale (desk).
# What a person types: paper, claims, figures, smoke, sync, <package>, <package>/<experiment>, <paper key>;
# --config scale=smoke|desk|full. Each target is also reachable by the paths of its files.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"


rule paper:
    default_target: True
    input:
        "paper/paper.pdf",
        f"results/{SCALE}/claims.csv",
        f"results/{SCALE}/tracked.ready",


rule claims:
    input:
        f"results/{SCALE}/claims.csv",


rule figures:
    input:
        [file for e in EXPERIMENTS for file in tb.figure_files(SCALE, e)],


rule smoke:
    input:
        "results/smoke/paper.pdf",


include: "workflow/rules/runs.smk"
include: "workflow/rules/reports.smk"
include: "workflow/rules/paper.smk"
include: "workflow/rules/targets.smk"
