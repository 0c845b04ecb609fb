"""From a spec to finished builds: plan, pre-flight checks, runs of single steps, and what a release watch decides.

    plan = make_plan(spec)
    for step in plan.steps:
        run_step(step, open_store(), log=print)

Making a plan needs no server, and no network if the source is local. All keys are known before any work starts.
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.pipeline.explain import SpecChanges, explain_steps, spec_changes, with_last_builds
    from enginery.pipeline.fleet import Pool, Pools, WorkPool, load_plan, read_fleet, read_pools, save_plan, spec_files
    from enginery.pipeline.perform import fill
    from enginery.pipeline.plan import Plan, PlannedStep, PlannedTarget, make_plan
    from enginery.pipeline.prepared import require_prepared
    from enginery.pipeline.promotion import (
        Rebuild,
        RebuildRun,
        WatchReport,
        answers_sentence,
        figures,
        markdown_table,
        promotion_markdown,
        promotions,
        rebuilds,
        verdict_rows,
    )
    from enginery.pipeline.run import (
        HARD_STAGES,
        TIMEOUT_SECONDS,
        BuildSummary,
        Outcome,
        chain_of,
        disk_findings,
        find_valid,
        local_place,
        require_disk_space,
        run_locked_step,
        run_step,
        run_with_inputs,
    )
    from enginery.pipeline.script import shell_script
    from enginery.pipeline.verdict import Verdict, fleet_verdicts, with_prereleases
else:
    __getattr__ = door(__name__, __file__)
