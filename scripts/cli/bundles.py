"""``quantize``, ``inspect`` and ``recipes``: finished folders and what can be made of them, without torch or NeMo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.cli import options
from scripts.cli.result import Result, facts_table, megabytes, verb


@verb
def quantize(
    source: Annotated[Path, typer.Argument(metavar="FP32_DIR", help="The folder that `export` wrote.")],
    directory: options.Folder,
    recipe: Annotated[str, typer.Option(metavar="NAME", help="One of the names that `recipes` prints.")],
    force: options.Force = False,
    as_json: options.Json = False,
) -> Result:
    """Derive a smaller folder from an FP32 one by a named recipe."""
    from export.bundle import Bundle, refuse_existing
    from quantize.pipeline import quantize_bundle
    from quantize.recipes import get_recipe
    from verify.resources import peak_rss_mb

    chosen = get_recipe(recipe)
    refuse_existing(directory, force=force)
    bundle = quantize_bundle(Bundle.open(source), directory, chosen, force=force)
    data: dict[str, Any] = {
        "folder": str(bundle.path),
        "recipe": chosen.name,
        "bytes": bundle.size_bytes,
        "constants": bundle.metadata.constants,
        "peak_rss_mb": peak_rss_mb(),
    }
    facts = {"recipe": chosen.name, "size": megabytes(bundle.size_bytes)}
    facts |= {f"{graph} constants": text for graph, text in constants_text(bundle.metadata.constants).items()}
    return Result(data, lambda: [facts_table(str(bundle.path), facts)], as_json)


@verb
def inspect(directory: options.Finished, as_json: options.Json = False) -> Result:
    """Show what a folder holds and check it: file hashes, tensor names, shapes, metadata, vocabulary."""
    from export.bundle import Bundle
    from export.contract import contract_problems

    bundle = Bundle.open(directory)
    metadata = bundle.metadata
    problems = [f"{name}: differs from what was written" for name in bundle.damaged_files()]
    problems = problems or contract_problems(bundle)
    data: dict[str, Any] = {
        "folder": str(bundle.path),
        "bytes": bundle.size_bytes,
        "problems": problems,
        "metadata": metadata.model_dump(),
    }

    def render() -> list[Any]:
        facts = {
            "model": f"{metadata.model} ({metadata.model_class})",
            "precision": metadata.precision,
            "recipe": metadata.recipe.get("name", "none"),
            "size": megabytes(bundle.size_bytes),
            "graph": metadata.graph,
            "attention context": metadata.att_context_size,
            "chunk": f"{metadata.chunk_ms:g} ms, {metadata.chunk_samples} samples",
            "vocabulary": f"{metadata.vocab_size} pieces, {len(metadata.lang_tag_token_ids)} language tags",
            "prompts": ", ".join(metadata.prompt_dictionary or {}) or "none",
            **{f"{graph} constants": text for graph, text in constants_text(metadata.constants).items()},
            "checkpoint": metadata.checkpoint.get("sha256", "unknown"),
            "made with": ", ".join(f"{name} {version}" for name, version in metadata.tools.items()),
            "warnings": "; ".join(metadata.warnings) or "none",
            "problems": "; ".join(problems) or "none",
        }
        return [facts_table(str(bundle.path), facts)]

    return Result(data, render, as_json, exit_code=1 if problems else 0)


@verb
def recipes(as_json: options.Json = False) -> Result:
    """List the recipes that `quantize` and `regenerate` know."""
    from quantize.recipes import RECIPES

    rows = [
        {
            "name": recipe.name,
            "version": recipe.version,
            "description": recipe.description,
            "tolerance": recipe.tolerance.model_dump(),
        }
        for recipe in RECIPES.values()
    ]

    def render() -> list[Any]:
        from rich.table import Table

        table = Table("recipe", "version", "what it does", "identical tokens", "WER delta")
        for recipe in RECIPES.values():
            limits = recipe.tolerance
            least, most = f"≥ {100 * limits.exact_match:g} %", f"≤ {limits.wer_delta:g} points"
            table.add_row(recipe.name, str(recipe.version), recipe.description, least, most)
        return [table]

    return Result({"recipes": rows}, render, as_json)


def constants_text(constants: dict[str, dict[str, dict[str, int]]]) -> dict[str, str]:
    """Per graph, its constants' dtypes with their sizes, the largest first."""
    return {
        graph: ", ".join(
            f"{dtype} {megabytes(facts.get('bytes', 0))}"
            for dtype, facts in sorted(dtypes.items(), key=lambda item: -item[1].get("bytes", 0))
        )
        for graph, dtypes in constants.items()
    }
