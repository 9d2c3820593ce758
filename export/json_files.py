"""JSON files that people edit: read as what they should be, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from export.errors import UserError, listed

_Kind = TypeVar("_Kind")


def read_json(file: Path, remedy: str) -> Any:
    """The content of a file, whatever it is.

    Args:
        file: UTF-8.
        remedy: what the user can do, the end of the refusal.

    Raises:
        UserError: it cannot be read, is no JSON, or has a whole number that nothing can count to.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_int=_countable)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is no JSON ({str(error)[:120]}); {remedy}") from error


def _countable(digits: str) -> int:
    if len(digits) > 18:  # Python makes a float of a number that it divides, which cannot hold 309 digits
        raise ValueError(f"it has the number {digits[:20]}…")
    return int(digits)


def read_json_as(kind: type[_Kind], file: Path, remedy: str) -> _Kind:
    """As :func:`read_json`, checked for what is missing or of another type.

    Args:
        kind: a model, or a collection of models.
        file: UTF-8.
        remedy: what the user can do, the end of the refusal.

    Raises:
        UserError: see there; or naming the first keys that are wrong, with their values.
    """
    content = read_json(file, remedy)
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        problems = [described(each) for each in error.errors(include_url=False)]
        raise UserError(f"{file}: {listed(problems, 3)}; {remedy}") from error


def described(error: Any) -> str:
    """A pydantic error in words: the key, what is there, what should be."""
    parts = [str(part) for part in error["loc"] if not str(part).startswith(("list[", "function-", "constrained"))]
    where, value = ".".join(part for part in parts if part != "[key]"), repr(error["input"])[:60]
    if error["type"] == "missing":
        return f"{where} is missing"
    if "[key]" in parts and isinstance(error["input"], bool):
        where = where.rpartition(".")[0]
        return f"{where} has the key {value}, which YAML makes of an unquoted no, off, yes or on; put it in quotes"
    if value == "'???'":
        return f"{where} was left open (???)"
    return f"{where} is {value}: {error['msg'][:1].lower()}{error['msg'][1:]}".strip()
