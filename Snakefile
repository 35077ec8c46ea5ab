# tensorbench: from the configs to the paper. `snakemake` builds paper/paper.pdf at the default scale (desk).
# What a person types: paper, claims, figures, smoke, sync, <package>, <package>/<experiment>, <paper key>.
from snakemake.utils import min_version

min_version("9.0")

include: "workflow/rules/common.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/reports.smk"
include: "workflow/rules/paper.smk"
include: "workflow/rules/targets.smk"
