# The names that a person types. Each is also reachable by its files' paths.


rule paper:
    default_target: True
    input:
        "paper/paper.pdf",
        f"results/{SCALE}/claims.csv",


rule claims:
    input:
        f"results/{SCALE}/claims.csv",


rule figures:
    input:
        [file for e in EXPERIMENTS for file in tb.figure_files(SCALE, e)],


rule smoke:
    input:
        "results/smoke/paper.pdf",


for package in PLAN.workspace.packages:

    rule:
        name:
            package
        input:
            PLAN.reports(PLAN.workspace.of_package(package)),


for e in EXPERIMENTS:

    rule:
        name:
            e.key
        input:
            PLAN.reports([e]),


for key in PLAN.workspace.papers:

    rule:
        name:
            key
        input:
            PLAN.reports(PLAN.workspace.of_paper(key)),


tb.check_targets(tb.typed_targets(sys.argv), [rule.name for rule in workflow.rules], PLAN)
