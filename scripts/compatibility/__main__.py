"""``python -m scripts.compatibility DIR… --output DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from export.errors import UserError
from export.folders import write_atomically
from scripts.compatibility.environments import VERSIONS
from scripts.compatibility.run import run
from scripts.compatibility.table import table, updated, write


def main(arguments: list[str] | None = None) -> int:
    """Run, write, print the table; 1 where a folder does not run or gives other tokens in f32."""
    parser = argparse.ArgumentParser("python -m scripts.compatibility", description=_ABOUT)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="finished folders of one checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="folder for environments and compatibility.json")
    parser.add_argument("--version", action="append", help=f"2025.4, 2025.4.1 or newest (default: {VERSIONS})")
    parser.add_argument("--limit", type=int, default=60, help="demo recordings (default: 60)")
    parser.add_argument("--document", type=Path, help="Markdown whose table is written again")
    given = parser.parse_args(arguments)
    try:
        if given.document:
            _rewritten(given.document, "")  # before the work: is there a place for the table?
        if given.limit < 1:
            raise UserError(f"--limit {given.limit}: give at least 1")
        found = run(given.folders, given.output, given.version or VERSIONS, given.limit)
        write(found, given.output / "compatibility.json")
        if given.document:
            write_atomically(given.document, _rewritten(given.document, table(found)))
    except (UserError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(table(found) + "\n")
    good = all(
        ran.error is None and (ran.precision != "f32" or ran.identical == ran.utterances) for ran in found.compatibility
    )
    return 0 if good else 1


def _rewritten(document: Path, content: str) -> str:
    try:
        return updated(document.read_text(encoding="utf-8"), content)
    except ValueError as error:
        raise UserError(f"{document}: {error}; give a document with these two comments") from error


_ABOUT = "Run folders under several versions of OpenVINO and compare their tokens with the newest's."

if __name__ == "__main__":
    sys.exit(main())
