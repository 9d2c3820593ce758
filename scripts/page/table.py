"""The rows behind the page as CSV or Parquet, for notebooks; texts are as they were recognized.

Texts that begin with ``=``, ``+``, ``-`` or ``@`` are not escaped: a notebook would compare other texts than the scorer
did. A spreadsheet takes such texts for formulas, so columns are imported there as text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.errors import UserError
from export.folders import write_atomically
from export.removal import scratch_folder
from scripts.outputs import check_output
from scripts.page.sources import Comparison
from scripts.page.utterances import table_rows

TEXT = (
    "build", "reference", "audio_filepath", "language", "sentence", "normalizer", "metric", "text", "build_text",
    "reference_text", "build_language", "reference_language", "witness_text",
    "witness_language", "agree",
)  # fmt: skip
WHOLE = (
    "units", "substitutions", "deletions", "insertions", "reference_units", "reference_substitutions",
    "reference_deletions", "reference_insertions", "between_units", "between_substitutions", "between_deletions",
    "between_insertions", "position", "expected", "actual", "frame",
)  # fmt: skip
TRUTH = ("same_tokens", "near_tie")
COLUMNS = (
    "build", "reference", "audio_filepath", "offset", "duration", "language", "sentence", "normalizer", "metric",
    "text", "build_text", "reference_text", "units", "substitutions", "deletions", "insertions", "rate",
    "reference_units", "reference_substitutions", "reference_deletions", "reference_insertions", "reference_rate",
    "between_units", "between_substitutions", "between_deletions", "between_insertions", "between_rate",
    "same_tokens", "position", "expected", "actual", "frame", "margin", "near_tie", "build_language",
    "reference_language", "build_seconds", "reference_seconds", "witness_text", "witness_language", "agree",
)  # fmt: skip
"""A row's columns: seconds, rates in percent, tokens as the checkpoint's ids; all other columns are floats.

``agree`` says which of the three sides have the same tokens, where there is a witness.
"""


def check_table(path: Path | None) -> None:
    """Refuse what could not be written, or would replace what is no table of ours.

    Raises:
        UserError: see there; or the name ends in neither ``.csv`` nor ``.parquet``.
    """
    if path is None:
        return
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"--table {path}: is neither .csv nor .parquet; give a name that ends in one of them")
    check_output("--table", path, picture=True)
    if path.exists() and path.stat().st_size and not _is_table(path):
        raise UserError(f"--table {path}: exists and is no table of ours; choose another file, or move it away")
    if path.suffix == ".parquet":
        import pyarrow.parquet  # noqa: F401  # named with its extra before the work where it is missing


def _is_table(path: Path) -> bool:
    if path.suffix == ".csv":
        with path.open("rb") as file:
            return file.readline(2000).decode(errors="replace").strip() == ",".join(COLUMNS)
    import pyarrow
    import pyarrow.parquet

    try:
        return tuple(pyarrow.parquet.read_schema(path).names) == COLUMNS
    except (pyarrow.ArrowInvalid, OSError):
        return False


def write_table(comparisons: Sequence[Comparison], path: Path) -> int:
    """Write the rows of all comparisons; the file appears only when complete.

    Returns:
        How many rows there are.

    Raises:
        UserError: it cannot be written there.
    """
    rows = list(table_rows(comparisons))
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)  # lines end in CR LF, without which Python 3.11 leaves a CR unquoted
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, text.getvalue().encode(errors="backslashreplace").decode())
    else:
        _write_parquet(rows, path)
    return len(rows)


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {name: pyarrow.string() for name in TEXT} | {name: pyarrow.int64() for name in WHOLE}
    types |= {name: pyarrow.bool_() for name in TRUTH}
    schema = pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in COLUMNS])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path) as folder:
            finished = folder / path.name
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), finished)
            finished.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
