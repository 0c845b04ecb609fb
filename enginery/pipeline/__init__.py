"""From a spec to finished builds: plan, pre-flight checks, runs of single steps, and what a release watch decides.

    plan = make_plan(spec)
    for step in plan.steps:
        run_step(step, open_store(), log=print)

A plan is made without a server and without a network where the source is local: all keys are known before work starts.
"""

from enginery.pipeline.explain import SpecChanges, explain_steps, spec_changes, with_last_builds
from enginery.pipeline.fleet import Pool, Pools, WorkPool, keep_plan, kept_plan, read_fleet, read_pools, spec_files
from enginery.pipeline.outcome import BuildSummary, Outcome
from enginery.pipeline.plan import Plan, PlannedStep, PlannedTarget, make_plan
from enginery.pipeline.promotion import promotions
from enginery.pipeline.release_verdicts import fleet_verdicts, with_prereleases
from enginery.pipeline.run import (
    TIMEOUT_SECONDS,
    chain_of,
    disk_findings,
    fill,
    find_valid,
    local_place,
    require_disk_space,
    require_prepared,
    run_locked_step,
    run_step,
    run_with_inputs,
)
from enginery.pipeline.script import shell_script
from enginery.pipeline.verdict import Verdict
from enginery.pipeline.watch_report import (
    COLUMNS,
    Rebuild,
    RebuildRun,
    WatchReport,
    answers_sentence,
    figures,
    promotion_markdown,
    rebuilds,
    verdict_rows,
)

__all__ = [
    "COLUMNS",
    "TIMEOUT_SECONDS",
    "BuildSummary",
    "Outcome",
    "Plan",
    "PlannedStep",
    "PlannedTarget",
    "Pool",
    "Pools",
    "Rebuild",
    "RebuildRun",
    "SpecChanges",
    "Verdict",
    "WatchReport",
    "WorkPool",
    "answers_sentence",
    "chain_of",
    "disk_findings",
    "explain_steps",
    "figures",
    "fill",
    "find_valid",
    "fleet_verdicts",
    "keep_plan",
    "kept_plan",
    "local_place",
    "make_plan",
    "promotion_markdown",
    "promotions",
    "read_fleet",
    "read_pools",
    "rebuilds",
    "require_disk_space",
    "require_prepared",
    "run_locked_step",
    "run_step",
    "run_with_inputs",
    "shell_script",
    "spec_changes",
    "spec_files",
    "verdict_rows",
    "with_last_builds",
    "with_prereleases",
]
