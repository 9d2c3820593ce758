"""The main job: a checkpoint becomes ``fp32/``, ``fp16/``, ``int8/`` …, each verified, with one report.

:mod:`.plan` checks everything before anything is written, :mod:`.state` makes the output resumable and keeps two
runs apart, :mod:`.stages` runs each stage in a process of its own, :mod:`.report` is the table and ``report.json``,
:mod:`scripts.page` the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scripts.processes import ChildError
from scripts.regenerate.plan import Options, Plan, make_plan
from scripts.regenerate.report import made_folders, write_report
from scripts.regenerate.stages import judge_folders, make_folders, write_page
from scripts.regenerate.state import claimed_output


def regenerate(options: Options) -> dict[str, Any]:
    """Export once, derive the recipes, verify and measure each; continue where an earlier run was stopped.

    Returns:
        The content of ``report.json``: ``passed``, a row for each folder, and what it was made from. With
        ``folders_only`` there is no report, and the rows say what was made.

    Raises:
        UserError: bad input, an output that is not ours to write, or too little disk; nothing was written. Or the
            checkpoint was changed meanwhile.
        ChildError: a stage failed; what was finished before stays and the next run continues from there.
    """
    if options.ray is not None:
        from verify.cluster import require_ray

        require_ray(options.ray)
    plan = make_plan(options)
    with claimed_output(plan) as state, _reason_of_a_signal(plan):
        made = make_folders(plan, state)
        if options.folders_only:
            return made_folders(plan, made)
        report = write_report(plan, judge_folders(plan, state, made))
        write_page(plan, state)
        state.finish()
    return report


@contextmanager
def _reason_of_a_signal(plan: Plan) -> Iterator[None]:
    """Name the checkpoint where it was changed while a stage had it mapped: made shorter, it ends the stage (SIGBUS).

    Raises:
        UserError: it was changed.
    """
    try:
        yield
    except ChildError as error:
        if str(error):  # else the stage itself has said why
            plan.checkpoint.require_unchanged()
        raise
