"""What recipes do to a checkpoint: ``python -m scripts.effects NAME FP32_DIR --calibration DIR --work DIR``.

Divergence along FP32's own path, tokens and words of the same encodings, each with an interval, and each paired with
one recipe's. The figures are stored under NAME for the tables that :mod:`scripts.docs` makes. What is measured stays in
``--work`` and is not measured again.
"""

from __future__ import annotations

import json
from collections import Counter
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
        four_bits("int4-aware-awq", "as `int4-aware`, AWQ too", gptq=True, awq=True),
        four_bits("int4-aware-scales", "as `int4-aware`, scale estimation too", gptq=True, scale_estimation=True),
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
        inputs = [self._source.hashes, recipe.hash, self._calibration_sha256(recipe)]
        return f"{recipe.name}-{digest(inputs)[:8]}"

    def _calibration_sha256(self, recipe: Recipe) -> str | None:
        """Of the set that a recipe sees; None where it needs none."""
        return self._calibration.sha256 if self._calibration and recipe.needs_calibration else None

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
                    "calibration": self._calibration_sha256(recipe),
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
    """Measure recipes, whose other rows stay as they are, or mixtures, which replace the stored ones."""
    _check_options(ranking, ratio, metric, recipe)
    earlier = read().get(name, {})  # what is damaged is refused before hours of work
    bundle = Bundle.open(source)
    ranked = None if ranking is None else _read_ranking(ranking, bundle)
    part, beside = ("recipes", RECIPES["int4"]) if ranked is None else ("mixtures", known_base())
    chosen = _chosen(recipe, beside) if ranked is None else []
    staying = [row for row in earlier.get(part, []) if chosen and row["name"] not in {each.name for each in chosen}]
    utterances = choose_utterances(None, limit, prompts=bundle.metadata.prompt_dictionary)
    entry: dict[str, Any] = {
        "checkpoint": bundle.metadata.checkpoint.get("sha256"),
        "utterances": len(utterances),
    }
    data = CalibrationData.open(calibration) if calibration else None
    _check_earlier(name, earlier, entry, part, staying, beside, data)
    effects = Effects(bundle, work, data, utterances, threads)
    if ranked is not None:
        mixtures = _mixtures(effects, ranked, beside, ratio or [0.9, 0.8], metric or METRICS)
        chosen = [beside, *mixtures, RECIPES["int4"]]
    rows = [*staying, *effects.figures(chosen, beside)]
    if ranked is None:
        order = [each.name for each in variants()]
        rows.sort(key=lambda row: order.index(row["name"]) if row["name"] in order else len(order))
    stored = read()
    stored[name] = stored.get(name, {}) | entry | {part: rows}
    write_atomically(FIGURES, json.dumps(stored, indent=1, sort_keys=True) + "\n")


def _check_options(
    ranking: Path | None, ratio: Sequence[float] | None, metric: Sequence[str] | None, recipe: Sequence[str] | None
) -> None:
    if unknown := sorted({*(metric or ())} - {*METRICS}):
        raise UserError(f"--metric {unknown[0]}: NNCF has no such metric; choose from {', '.join(METRICS)}")
    if wrong := [share for share in ratio or () if not 0 < share < 1]:
        raise UserError(f"--ratio {wrong[0]:g}: is no share of a mixture; give a number between 0 and 1")
    if ranking is None and (ratio or metric):
        option = "--ratio" if ratio else "--metric"
        raise UserError(f"{option}: is of mixtures, which start from a ranking; give --ranking, or leave {option} out")
    if ranking is not None and recipe:
        raise UserError(f"--recipe {recipe[0]}: with --ranking mixtures are measured; leave one of the two out")


def _read_ranking(file: Path, source: Bundle) -> Ranking:
    """A ranking of the source's checkpoint by what mixtures start from."""
    ranked, base = read_ranking(file), known_base()
    if ranked.recipe.hash != base.hash:
        found = ranked.recipe.name
        raise UserError(f"{file}: is of {found}, and mixtures start from {base.name}; give its ranking")
    if ranked.checkpoint and ranked.checkpoint.get("sha256") != source.metadata.checkpoint.get("sha256"):
        raise UserError(f"{file}: is of another checkpoint than {source.path}; give the ranking of that folder")
    return ranked


def _chosen(names: Sequence[str] | None, beside: Recipe) -> list[Recipe]:
    """The recipes of these names, or all, and the one that they are paired with."""
    known = {each.name: each for each in variants()}
    chosen = {name: known.get(name) or get_recipe(name) for name in [*(names or known), beside.name]}
    found = Counter(each.name for each in chosen.values())
    if twice := [name for name, count in found.items() if count > 1]:
        raise UserError(f"--recipe: two recipes have the name {twice[0]}; give one of them, or another name")
    return list(chosen.values())


def _check_earlier(
    name: str,
    earlier: dict[str, Any],
    entry: dict[str, Any],
    part: str,
    staying: Sequence[dict[str, Any]],
    beside: Recipe,
    calibration: CalibrationData | None,
) -> None:
    """Refuse rows beside earlier ones that stay and do not compare with them."""
    if (staying or earlier.keys() & {"recipes", "mixtures"} - {part}) and not entry.items() <= earlier.items():
        raise UserError(
            f"{name}: its other rows in {FIGURES} are of another checkpoint, or of {earlier['utterances']} utterances "
            f"and not {entry['utterances']}; choose another NAME, or measure as there"
        )
    if staying and {row["recipe_hash"] for row in earlier[part] if row["beside"]} != {beside.hash}:
        raise UserError(
            f"{name}: its other {part} in {FIGURES} are not paired with {beside.name} as it is now; choose another "
            "NAME, or take them out there"
        )
    if calibration and {row.get("calibration") for row in staying} - {None, calibration.sha256}:
        raise UserError(
            f"{name}: its other {part} in {FIGURES} had another calibration set than {calibration.path}; give that, or "
            "measure them again too"
        )


def _mixtures(
    effects: Effects, ranked: Ranking, base: Recipe, ratios: Sequence[float], metrics: Sequence[str]
) -> list[Recipe]:
    """For each share of weights in INT4, NNCF's mixtures, and before them one by divergence, no larger than each."""
    mixtures = []
    for share in ratios:
        theirs = [by_metric(each, share) for each in METRICS if each in metrics]
        room = min(map(effects.megabytes, theirs)) - effects.megabytes(base)
        if room < 0:
            raise UserError(
                f"--ratio {share:g}: a mixture by NNCF has {-room:.2f} MB less than {base.name}, the smallest by "
                "divergence; give a smaller --ratio"
            )
        mixtures += [by_divergence(ranked, room), *theirs]
    return mixtures


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
