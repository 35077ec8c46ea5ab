# A target for each package, each experiment (<package>/<experiment>) and each paper (its key).

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


tb.check_targets(TARGETS, [rule.name for rule in workflow.rules], PLAN)
