"""What recipes do to a checkpoint: ``python -m scripts.effects NAME FP32_DIR --calibration DIR --work DIR``.

Divergence along FP32's own path, tokens and words of the same encodings, each with an interval, and each paired with
one recipe's. The figures are stored under NAME for the tables that :mod:`scripts.docs` makes. What is measured stays in
``--work`` and is not measured again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import BaseModel, Field

from export.bundle import Bundle
from export.digest import ROOT, digest
from export.errors import UserError
from export.folders import write_atomically
from export.progress import note
from export.results import read_result, write_result
from quantize.groups import find_groups, for_groups
from quantize.pipeline import quantize_bundle
from quantize.ranking import Ranking, read_ranking
from quantize.recipe import Recipe
from quantize.recipes import RECIPES, get_recipe
from quantize.samples import CalibrationData
from quantize.steps import SensitivityMetric, WeightCompression
from scripts.cli import end_with_status
from scripts.figures import read_figures
from verify.compare import first_divergence
from verify.data.manifest import Utterance
from verify.data.selection import choose_utterances
from verify.runtimes.transcript import decode
from verify.scoring.bootstrap import interval, resample
from verify.scoring.divergence import (
    ReferencePath,
    encode,
    kl,
    open_encoder,
    open_transducer,
    read_reference_paths,
    record_reference_paths,
)
from verify.scoring.intervals import Interval, with_interval
from verify.scoring.models import ErrorParts, Output, Row
from verify.scoring.rows import compare_distances, score_rows

FIGURES = ROOT / "docs" / "recipes-effects.json"

METRICS: tuple[SensitivityMetric, ...] = (
    "weight_quantization_error",
    "hessian_input_activation",
    "mean_activation_variance",
    "max_activation_variance",
    "mean_activation_magnitude",
)


_Figure = tuple[float, Interval]
"""A value and its interval."""


class _Row(BaseModel, extra="allow", allow_inf_nan=False):
    """What the tables show of a recipe."""

    name: str
    recipe_hash: str
    description: str
    beside: bool
    mb: float
    kl: _Figure
    kl_more: _Figure
    same: int
    wer_between: _Figure
    errors: ErrorParts
    farther: _Figure


class _Entry(BaseModel, extra="allow"):
    """What was measured on a checkpoint."""

    utterances: Annotated[int, Field(ge=1)]
    recipes: list[_Row] = Field(default_factory=list)
    mixtures: list[_Row] = Field(default_factory=list)


def four_bits(name: str, description: str, *, last: bool = False, **changes: Any) -> Recipe:
    """As ``int4``, its first compression changed, and the last layer in 4 bits too where ``last`` says so."""
    recipe = RECIPES["int4"]
    first, *rest = recipe.encoder.compression
    scope = first.ignored_scope.model_copy(update={"layers": ()}) if last else first.ignored_scope
    table = first.model_dump(exclude_none=True) | {"ignored_scope": scope.model_dump()} | changes
    runtime = {key: changes.get("group_size", value) for key, value in recipe.encoder.runtime_options.items()}
    encoder = recipe.encoder.model_copy(
        update={"compression": (WeightCompression.model_validate(table), *rest), "runtime_options": runtime}
    )
    return recipe.model_copy(update={"name": name, "version": 1, "description": description, "encoder": encoder})


def variants() -> list[Recipe]:
    """The built-in recipes that change something, and what ``int4`` was chosen from."""
    return [
        *(recipe for name, recipe in RECIPES.items() if name not in ("fp32", "fp16")),
        four_bits("int4-32", "as `int4`, groups of 32", group_size=32),
        four_bits("int4-128", "as `int4`, groups of 128", group_size=128),
        four_bits("int4-awq", "as `int4`, AWQ", awq=True),
        four_bits("int4-scales", "as `int4`, scale estimation", scale_estimation=True),
        four_bits("int4-all", "as `int4`, last layer in INT4 too", last=True),
    ]


def by_metric(metric: SensitivityMetric, ratio: float) -> Recipe:
    """Encoder layers in INT4 but for what one of NNCF's metrics leaves to INT8."""
    name = f"mixed-{metric.replace('_', '-')}-{round(100 * ratio)}"
    description = f"NNCF's `{metric}`, {100 * ratio:g} % of the weights in INT4"
    return four_bits(name, description, last=True, ratio=ratio, sensitivity_metric=metric)


def by_divergence(ranking: Ranking, extra_mb: float) -> Recipe:
    """Encoder layers in INT4 but for the groups whose divergences add up to most in so many 10⁶ bytes."""
    mixed = ranking.mixed(ranking.kept(extra_mb=extra_mb))
    description = f"divergence, {extra_mb:.2f} MB more"
    return mixed.model_copy(update={"name": f"mixed-divergence-{round(100 * extra_mb)}", "description": description})


class Effects:
    """Recipes on one FP32 folder, each measured once.

    Args:
        source: the folder.
        work: where folders and measurements stay.
        calibration: for recipes that need it.
        utterances: what is decoded.
        threads: of OpenVINO.
    """

    def __init__(
        self,
        source: Bundle,
        work: Path,
        calibration: CalibrationData | None,
        utterances: Sequence[Utterance],
        threads: int,
    ) -> None:
        self._source, self._work, self._calibration, self._threads = source, work, calibration, threads
        self._utterances = utterances
        paths = work / f"paths-{len(utterances)}-{digest(source.hashes)[:8]}"
        if not paths.is_dir():
            record_reference_paths(source, utterances, paths, threads=threads)
        self._paths = list(read_reference_paths(paths))
        self._groups = find_groups(source)

    def megabytes(self, recipe: Recipe) -> float:
        """Of the recipe's folder, 10⁶ bytes."""
        return self._folder(recipe).size_bytes / 1e6

    def _kept_as(self, recipe: Recipe) -> str:
        """Name of what stays of a recipe, with a hash of what it depends on: another recipe may have the same name."""
        calibration = self._calibration.sha256 if self._calibration and recipe.needs_calibration else None
        return f"{recipe.name}-{digest([self._source.hashes, recipe.hash, calibration])[:8]}"

    def _folder(self, recipe: Recipe) -> Bundle:
        folder = self._work / "folders" / self._kept_as(recipe)
        if not folder.exists():
            note(f"making {recipe.name}")
            quantize_bundle(self._source, folder, for_groups(recipe, self._groups), calibration=self._calibration)
        return Bundle.open(folder)

    def measured(self, recipe: Recipe) -> dict[str, Any]:
        """Megabytes, and of each utterance tokens, divergence and cells."""
        file = self._work / f"{self._kept_as(recipe)}-{len(self._utterances)}.json"
        found = read_result(file)
        if found is None:
            bundle = self._folder(recipe)
            note(f"measuring {recipe.name}, {bundle.size_bytes / 1e6:.1f} MB")
            found = {"mb": bundle.size_bytes / 1e6, "utterances": list(self._measure(bundle))}
            write_result(file, found)
        return found

    def _measure(self, bundle: Bundle) -> Iterator[dict[str, Any]]:
        encoder, transducer = open_encoder(bundle, self._threads), open_transducer(bundle, self._threads)
        for path in self._paths:
            encoded = encode(encoder, path)
            frames, before = path.cells.T
            logits = transducer.logits(encoded[frames], transducer.decoder_outs(path.tokens.tolist())[before])
            tokens, _, _ = transducer.greedy(encoded)
            yield {"tokens": tokens, "kl": float(kl(path.logits, logits).sum()), "cells": len(frames)}

    def rows(self, found: dict[str, Any]) -> list[Row]:
        """A measurement as rows of a comparison with FP32."""
        utterances = zip(self._utterances, self._paths, found["utterances"], strict=True)
        return [self._row(utterance, path, each["tokens"]) for utterance, path, each in utterances]

    def _row(self, utterance: Utterance, path: ReferencePath, tokens: list[int]) -> Row:
        meta = self._source.metadata

        def output(tokens: list[int]) -> Output:
            text, language = decode(tokens, self._source.vocabulary, meta.lang_tag_token_ids or ())
            return Output(tokens=tokens, text=text, language=language)

        return Row(
            audio=str(utterance.audio_filepath),
            audio_seconds=0.0,
            language=utterance.target_lang,
            text=utterance.text,
            target=output(tokens),
            reference=output(path.tokens.tolist()),
        )

    def figures(self, recipes: Sequence[Recipe], beside: Recipe) -> list[dict[str, Any]]:
        """A row for each recipe, paired with ``beside``."""
        base = self.measured(beside)
        found = []
        for recipe in recipes:
            mine = self.measured(recipe)
            rows, others = self.rows(mine), self.rows(base)
            scores = score_rows(rows, recipe.tolerance)
            paired = compare_distances(rows, others)
            found.append(
                {
                    "name": recipe.name,
                    "beside": recipe.name == beside.name,
                    "recipe_hash": recipe.hash,
                    "description": recipe.description,
                    "mb": round(mine["mb"], 2),
                    **self._divergence(mine, base),
                    "same": [first_divergence(row.reference.tokens, row.target.tokens) for row in rows].count(None),
                    "wer": scores.wer,
                    "wer_between": [scores.wer_between, scores.wer_between_interval],
                    "errors": scores.between_errors.model_dump() if scores.between_errors else None,
                    "farther": [paired.points, paired.interval],
                }
            )
        return found

    def _divergence(self, mine: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
        sums = [[each["kl"] for each in side["utterances"]] for side in (mine, base)]
        cells = [each["cells"] for each in mine["utterances"]]
        drawn = resample(np.array([*sums, cells]), [each.text for each in self._utterances], seed=0)
        assert drawn is not None  # noqa: S101  # the demo set has many sentences
        ours, theirs = (1e3 * sum(each) / sum(cells) for each in sums)
        kls = 1e3 * drawn[:2] / drawn[2]
        return {
            "kl": [ours, interval(kls[0], 0.0, signed=False)],
            "kl_more": [ours - theirs, interval(kls[0] - kls[1], 0.0, signed=True)],
        }


def main(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the checkpoint, in the stored figures.")],
    source: Annotated[Path, typer.Argument(metavar="FP32_DIR")],
    work: Annotated[Path, typer.Option(metavar="DIR")],
    calibration: Annotated[Path | None, typer.Option(metavar="DIR", help="For recipes that need it.")] = None,
    ranking: Annotated[
        Path | None, typer.Option(metavar="LAYERS_JSON", help="Of `int4-all`; also mixtures, beside NNCF's.")
    ] = None,
    ratio: Annotated[list[float] | None, typer.Option(help="Share of weights in INT4 of mixtures.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Of NNCF, repeatable. (default: all)")] = None,
    recipe: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Repeatable. (default: all)")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Utterances of the demo set.")] = None,
    threads: Annotated[int, typer.Option(metavar="N")] = 2,
) -> None:
    """Measure recipes, or mixtures, and store what came out."""
    if unknown := sorted({*(metric or ())} - {*METRICS}):
        raise UserError(f"--metric {unknown[0]}: NNCF has no such metric; choose from {', '.join(METRICS)}")
    if wrong := [share for share in ratio or [] if not 0 < share < 1]:
        raise UserError(f"--ratio {wrong[0]:g}: is no share of a mixture; give a number between 0 and 1")
    earlier = read().get(name, {})  # what is damaged is refused before hours of work
    bundle = Bundle.open(source)
    utterances = choose_utterances(None, limit, prompts=bundle.metadata.prompt_dictionary)
    entry: dict[str, Any] = {
        "checkpoint": bundle.metadata.checkpoint.get("sha256"),
        "utterances": len(utterances),
    }
    other = "recipes" if ranking else "mixtures"  # which stay
    if other in earlier and not entry.items() <= earlier.items():
        raise UserError(
            f"{name}: its {other} in {FIGURES} are of another checkpoint, or of {earlier['utterances']} utterances and "
            f"not {len(utterances)}; choose another NAME, or measure as there"
        )
    effects = Effects(bundle, work, CalibrationData.open(calibration) if calibration else None, utterances, threads)
    if ranking is None:
        known = {each.name: each for each in variants()}
        chosen = [known.get(each) or get_recipe(each) for each in recipe] if recipe else list(known.values())
        entry["recipes"] = effects.figures(chosen, RECIPES["int4"])
    else:
        base = known_base()
        ranked, mixtures = read_ranking(ranking), []
        if ranked.recipe.hash != base.hash:
            found = ranked.recipe.name
            raise UserError(f"{ranking}: is of {found}, and mixtures start from {base.name}; give its ranking")
        for share in ratio or [0.9, 0.8]:
            theirs = [by_metric(each, share) for each in METRICS if not metric or each in metric]
            room = min(map(effects.megabytes, theirs)) - effects.megabytes(base)
            if room < 0:
                raise UserError(
                    f"--ratio {share:g}: a mixture by NNCF has {-room:.2f} MB less than {base.name}, the smallest by "
                    "divergence; give a smaller --ratio"
                )
            mixtures += [by_divergence(ranked, room), *theirs]
        entry["mixtures"] = effects.figures([base, *mixtures, RECIPES["int4"]], base)
    stored = read()
    stored[name] = stored.get(name, {}) | entry
    write_atomically(FIGURES, json.dumps(stored, indent=1, sort_keys=True) + "\n")


def known_base() -> Recipe:
    """What mixtures start from."""
    return next(each for each in variants() if each.name == "int4-all")


def effects_tables(found: dict[str, Any], part: str) -> str:
    """A table for each checkpoint.

    Args:
        found: the stored figures.
        part: ``recipes`` or ``mixtures``.
    """
    tables = []
    for name, entry in found.items():
        rows = [row for row in entry.get(part, []) if _is_current(row)]
        lines = [
            f"| {name}, {entry['utterances']} utterances | MB | KL | KL more | same tokens % | % from FP32's text "
            "| S / D / I | points farther |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *(_line(row, entry["utterances"]) for row in rows),
        ]
        tables += ["\n".join(lines)] if rows else []
    return "\n\n".join(tables)


def _is_current(row: dict[str, Any]) -> bool:
    """Whether a row is not of another recipe that a built-in one has the name of."""
    return row["name"] not in RECIPES or RECIPES[row["name"]].hash == row["recipe_hash"]


def _line(row: dict[str, Any], utterances: int) -> str:
    cells = [
        f"`{row['name']}`" if row["name"] in RECIPES else row["description"],
        f"{row['mb']:.2f}",
        _with_interval(row["kl"], ".2f"),
        "" if row["beside"] else _with_interval(row["kl_more"], "+.2f"),
        f"{100 * row['same'] / utterances:.0f}",
        _with_interval(row["wer_between"], ".2f"),
        " / ".join(f"{row['errors'][kind]:.2f}" for kind in ("substitutions", "deletions", "insertions")),
        "" if row["beside"] else _with_interval(row["farther"], "+.2f"),
    ]
    return f"| {' | '.join(cells)} |"


def _with_interval(figure: tuple[float, Sequence[float]], form: str) -> str:
    value, bounds = figure
    return with_interval(value, bounds, form).replace("-", "−")


def read(figures: Path = FIGURES) -> dict[str, Any]:
    """The stored figures by checkpoint; see :func:`scripts.figures.read_figures`."""
    return read_figures(figures, dict[str, _Entry])


if __name__ == "__main__":
    end_with_status(lambda: typer.run(main))
