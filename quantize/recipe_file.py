"""Recipes as TOML: the same fields as the object, one table a graph."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from export.errors import UserError
from export.folders import write_atomically
from quantize.recipe import Recipe

SUFFIX = ".toml"

_REMEDIES = {
    "missing": "add it",
    "extra_forbidden": "correct its name or remove it",
    "int_type": "write a whole number without quotes",
    "float_type": "write a number without quotes",
    "finite_number": "write a number",
    "bool_type": "write true or false without quotes",
}


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        UserError: it cannot be read, is no TOML, or says something that a recipe cannot; one line that names file,
            key, value and remedy.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a recipe's {SUFFIX} file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no TOML ({error}); correct it there") from error
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error)}") from error


def dump_recipe(recipe: Recipe) -> str:
    """A recipe as TOML; :func:`load_recipe` gives it back."""
    import tomli_w

    return tomli_w.dumps(recipe.as_table())


def save_recipe(recipe: Recipe, path: Path, *, force: bool = False) -> None:
    """Write a recipe's TOML file.

    Raises:
        UserError: the file exists and ``force`` is not given, or it cannot be written.
    """
    if path.suffix != SUFFIX:
        raise UserError(f"{path}: a recipe's file ends in {SUFFIX}; add it")
    if path.exists() and not force:
        raise UserError(f"{path}: already exists; add --force to replace it, or choose another name")
    write_atomically(path, dump_recipe(recipe))


def keep_recipe(recipe: Recipe, path: Path, earlier: Collection[str] = ()) -> None:
    """Write the TOML file of a recipe that a run found, which people edit, and which the next run finds again.

    Args:
        recipe: what the run found.
        path: its file.
        earlier: :func:`text_sha256` of recipes that earlier runs wrote: until somebody edits one, it may be replaced.

    Raises:
        UserError: a file with another text is there, or it cannot be written.
    """
    text = dump_recipe(recipe)
    known = {text_sha256(recipe), *earlier}
    if path.exists() and (not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() not in known):
        raise UserError(f"{path}: is there and says something else; rename it or move it away, then run again")
    write_atomically(path, text)


def text_sha256(recipe: Recipe) -> str:
    """Hash of the content of a recipe's file."""
    return hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()


def renamed(recipe: Recipe, path: Path) -> Recipe:
    """The same recipe under the name of a file's stem.

    Raises:
        UserError: the stem is no recipe's name.
    """
    try:
        return Recipe.model_validate(recipe.as_table() | {"name": path.stem})
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error)}") from error


def _one_line(error: ValidationError) -> str:
    """The first problem, as ``encoder.compression.mode 'int5': what; remedy``."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "recipe"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "value_error":  # ours, with value and remedy
        return f"{key}: {first['msg'].removeprefix('Value error, ')}{more}"
    value: Any = first["input"]
    shown = f" {value!r}" if isinstance(value, str | int | float) else ""
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{key}{shown}: {message}; {_REMEDIES.get(first['type'], 'correct the value')}{more}"
