"""What is going to be tried, on what, and whether it can be: every check before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from export.bundle import GRAPHS, Bundle
from export.digest import file_facts
from export.errors import UserError
from export.host import physical_cores
from quantize.grid import Variant, expand, parse_axis
from quantize.recipe import Recipe
from quantize.recipes import RECIPES, get_recipe
from quantize.source import require_fp32
from scripts.disk import SLACK, recipe_bytes, require_room
from scripts.sweep.calibration import check_apart, collected_bytes, open_collected, open_given
from scripts.sweep.identity import source_identity
from scripts.sweep.options import Options, Plan
from scripts.sweep.store import check_output
from verify.cluster import require_ray
from verify.data.manifest import Utterance
from verify.data.selection import choose_utterances, usable
from verify.data.sets import choose_manifest


def make_plan(options: Options, *, default: Sequence[str] | None = None) -> Plan:
    """Resolve and check everything but the recordings, which :func:`with_recordings` decodes.

    Args:
        options: as given.
        default: recipes where none is given; None for every one but fp32.

    Raises:
        UserError: folder, recipe, grid, manifest, calibration or output cannot be used.
    """
    if options.ray is not None:
        require_ray(options.ray)
    source = Bundle.open(options.source)
    require_fp32(source)
    source.check_hashes()
    given = open_given(options, source)
    recipes = _recipes(options, default)
    variants = expand(recipes, [parse_axis(text) for text in options.grid])
    _check_variants(variants, options)
    prompts = source.metadata.prompt_dictionary
    manifest = choose_manifest(options.manifest, options.data, prompts=prompts, text=not options.ignore_text)
    options = replace(options, manifest=manifest, data=None)
    chosen = choose_utterances(manifest, options.limit, prompts=prompts, ignore_text=options.ignore_text)
    identity = source_identity(source)
    check_output(options, identity)
    plan = Plan(
        options,
        source,
        tuple(recipes),
        tuple(variants),
        tuple(chosen),
        {},
        not options.ignore_text and _text_counts(options, source, chosen),
        given,
        options.threads or physical_cores(),
        identity,
    )
    return plan if given or not plan.needs_calibration else replace(plan, calibration=open_collected(options, identity))


def with_recordings(plan: Plan) -> Plan:
    """The plan with the recordings that can be used; all are decoded, which takes minutes where there are many.

    Raises:
        UserError: none can be used, or calibration saw them.
    """
    utterances, unusable = usable(plan.utterances, plan.source.metadata.sample_rate)
    if plan.options.calibration and plan.calibration and plan.needs_calibration:
        check_apart(plan.calibration, plan.source, utterances, plan.options.manifest)
    score_text = plan.score_text and _some_text(utterances)
    return replace(plan, utterances=tuple(utterances), unusable=unusable, score_text=score_text)


def _recipes(options: Options, default: Sequence[str] | None) -> list[Recipe]:
    names = options.recipes or default or [name for name in RECIPES if name != "fp32"]
    recipes = [get_recipe(name) for name in dict.fromkeys(names)]
    for index, recipe in enumerate(recipes):
        if any(other.name == recipe.name for other in recipes[:index]):
            raise UserError(f"--recipe {recipe.name}: two recipes have this name; rename one in its file")
    return recipes


def _check_variants(variants: Sequence[Variant], options: Options) -> None:
    """Refuse a grid that leaves nothing to try."""
    if not any(variant.recipe is not None for variant in variants):
        first = variants[0]
        raise UserError(
            f"--grid {' --grid '.join(options.grid)}: leaves no recipe to try; {first.name} breaks a rule "
            f"({first.refused}); choose another value"
        )


def _text_counts(options: Options, source: Bundle, utterances: Sequence[Utterance]) -> bool:
    """Whether text can be scored: there is some, and the demo set's means nothing to another model."""
    from export import demo

    if options.manifest is None and demo.CHECKPOINT.exists():
        return bool(source.metadata.checkpoint.get("sha256") == file_facts(demo.CHECKPOINT)["sha256"])
    return _some_text(utterances)


def _some_text(utterances: Sequence[Utterance]) -> bool:
    return any(utterance.text.strip() for utterance in utterances)


def check_room(plan: Plan, recipes: Sequence[Recipe]) -> None:
    """Compare the room that folders can take at most with what is free.

    ``--keep none`` holds one at a time; the others may end with all, because nobody knows the front before.

    Raises:
        UserError: too little, naming the need, what is there and the remedy.
    """
    sizes = {graph: plan.source.graph_path(graph).with_suffix(".bin").stat().st_size for graph in GRAPHS}
    estimates = [recipe_bytes(recipe, sizes) for recipe in recipes]
    if not estimates:
        return
    kept = max(estimates) if plan.options.keep == "none" else sum(estimates)
    need = kept + 0.5 * max(sizes.values()) + SLACK  # half-precision copy of the graph at work
    if plan.calibration is None and any(recipe.needs_calibration for recipe in recipes):
        need += collected_bytes(plan.source)
    remedy = "choose another --output" if plan.options.keep == "none" else "use --keep none, another --output"
    require_room([(plan.output, need)], f"{remedy}, or fewer recipes")
