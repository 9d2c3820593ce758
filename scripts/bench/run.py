"""The whole of ``bench``."""

from __future__ import annotations

from typing import Any

from scripts.bench.builds import claimed_work, make_builds
from scripts.bench.plan import Options, make_plan
from scripts.bench.report import load_average, make_report
from scripts.bench.rounds import measure_rounds


def bench(options: Options) -> dict[str, Any]:
    """Make the builds that are missing and measure all of them in turns.

    Returns:
        ``builds`` (a row for each by name), ``failed`` and ``unusable`` (reasons by build and by recording),
        ``machine``, ``checkpoint``, ``audio``.

    Raises:
        UserError: bad input; nothing was written.
    """
    plan, load = make_plan(options), load_average()
    with claimed_work(plan):
        paths, failed = make_builds(plan)
        measured, dropped = measure_rounds(plan, paths)
        return make_report(plan, paths, measured, failed | dropped, load)
