"""``python -m tests.bad_days``: the figures of bad days, for people on stdout and with ``--json FILE`` for programs."""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from pathlib import Path

from tests.bad_days.days import DAYS, bad_days


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    """Exit status 1 where anything was lost."""
    parser = argparse.ArgumentParser(prog="scripts/bad-days", description=__doc__.split(":")[1])
    parser.add_argument("--count", type=int, default=200, help="kills of each command; the rest in proportion")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", choices=list(DAYS), action="append", help="this kind; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("only root can mount the small disks; run it as root")
    with tempfile.TemporaryDirectory(prefix="bad-days-") as folder:
        names = options.only or list(DAYS)
        found = bad_days(Path(folder), options.count, options.seed, names, _say, options.minutes)
    facts = {name: {"title": figures.title, **figures.facts} for name, figures in found.items()}
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2) + "\n")
    raise SystemExit(int(any(figures.failed for figures in found.values())))


if __name__ == "__main__":
    main()
