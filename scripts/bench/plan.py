"""What is measured, on what, and whether it can be: every check before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from export.bundle import Bundle
from export.errors import UserError
from export.host import physical_cores
from scripts.outputs import BENCH_REPORT, check_output, check_picture

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from quantize.recipe import Recipe
    from verify.data.manifest import Utterance
    from verify.data.sets import DataSet

Size = Literal["small", "full"]
Engine = Literal["openvino", "onnxruntime", "nemo", "transformers"]
Precision = Literal["default", "f32"]

Loop = Literal["generation1", "generation2", "streaming", "recordings"]
"""A runtime, or the streaming one with all recordings together, as `verify` and `transcribe` run it on files."""

LOOPS: tuple[Loop, ...] = ("generation1", "streaming")
"""What folders run in by default: as the published clients run them, and as our runtime does."""

BASELINE = "published-fp32"
"""What ratios are taken against, where it is among the builds; else the first one. It is what clients run today."""

ONNX_PRECISIONS = ("fp32", "int8", "int4")
"""Of the ``onnxruntime-*`` builds."""

TRANSFORMERS_PRECISIONS = ("fp32", "bf16")
"""Of the ``transformers-*`` builds."""

LOOKAHEAD = 13
"""Of the ``transformers-*`` builds, whose chunk is lookahead + 1 frames: 1.12 s, as long as the others'."""

NEMO = "nemo-pytorch"

KV = "-kv"
"""Ends the names of builds whose attention cache holds keys and values."""

ENOUGH_SECONDS = 60.0
"""Audio that is transcribed at least, by default, where the manifest has so much."""

ANY_RATE = 16_000
"""Hz at which audio is read to see that it can be."""

PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Options:
    """What the user asked for; names as on the command line."""

    folders: tuple[Path, ...] = ()
    checkpoint: str | None = None
    size: Size = "small"
    builds: tuple[str, ...] = ()
    manifest: Path | None = None
    data: DataSet | None = None
    limit: int | None = None
    repeats: int = 3
    threads: int | None = None
    runtimes: tuple[Loop, ...] = ()
    precisions: tuple[Precision, ...] = ("default",)
    batch: int = 1
    tokens_per_second: float | None = None
    work: Path = Path("out/bench")
    picture: Path | None = None
    json_file: Path | None = None


@dataclass(frozen=True)
class Build:
    """One row of the table: a folder in a loop, in a precision.

    Attributes:
        name: unique among the builds.
        engine: what computes the encoder.
        runtime: the loop around it: one of :data:`Loop`, ``nemo-streaming`` or ``transformers-streaming``.
        encoder: what is exported for it, ``nemo`` or ``rewritten``; None where the folder is given or none is needed.
        cache: what the export's attention cache holds, ``channel`` or ``kv``.
        recipe: what is made of that export; of the builds that are not OpenVINO's, their precision.
        folder: the folder, where it is given.
        batch: streams that are transcribed together.
        precision: what OpenVINO computes in: FP32, or its own choice on this processor, as for the clients.
        label: what the table calls it, beside loop and precision; None for its name.
        lookahead: frames of right context of a checkpoint that is run as it is.
    """

    name: str
    engine: Engine
    runtime: str
    encoder: str | None = None
    cache: str = "channel"
    recipe: str = "fp32"
    folder: Path | None = None
    batch: int = 1
    precision: Precision = "f32"
    label: str | None = None
    lookahead: int = 0

    @property
    def shown(self) -> str:
        """What the table calls it."""
        return self.label or self.name


@dataclass(frozen=True)
class Plan:
    """Options with everything in them resolved and checked.

    Attributes:
        options: as given.
        builds: what is measured, in the table's order.
        checkpoint: what builds are made from; None for given folders only, and for the random one of full size,
            which is made first.
        utterances: what is transcribed.
        unusable: recordings that cannot be used, and why.
        threads: CPU threads of every engine.
    """

    options: Options
    builds: tuple[Build, ...]
    checkpoint: Checkpoint | None
    utterances: tuple[Utterance, ...]
    unusable: dict[str, str]
    threads: int

    @property
    def made(self) -> tuple[Build, ...]:
        """Builds that this command makes itself."""
        return tuple(build for build in self.builds if build.folder is None)


def make_plan(options: Options) -> Plan:
    """Check the options.

    Raises:
        UserError: bad input; nothing was written.
    """
    from export.checkpoint import open_checkpoint
    from verify.data.selection import choose_utterances, spread_seconds, usable
    from verify.data.sets import choose_manifest

    _check_outputs(options)
    given = _given_builds(options)
    names = _chosen_names(options)
    if options.size == "full" and options.checkpoint is not None:
        raise UserError(
            f"--checkpoint {options.checkpoint}: --size full makes a random one of full size; give one of the two"
        )
    if not names and (options.checkpoint is not None or options.size == "full"):
        raise UserError("--checkpoint: nothing is made from it when folders are given; add --build, or leave it out")
    made = [build for name, build in catalogue().items() if name in names]
    builds = tuple(each for build in _unique([*given, *made]) for each in _variants(build, options))
    _check_batch(options, builds)
    _check_speech(options, builds)
    checkpoint = open_checkpoint(options.checkpoint) if made and options.size != "full" else None
    prompts = _prompts(checkpoint, given)
    manifest = choose_manifest(options.manifest, options.data, prompts=prompts, text=False)
    options = replace(options, manifest=manifest, data=None)
    known = choose_utterances(manifest, options.limit, prompts=prompts, ignore_text=True)
    chosen = known if options.limit else spread_seconds(known, ENOUGH_SECONDS)
    utterances, unusable = usable(chosen, ANY_RATE)  # before minutes of work
    if options.batch > len(utterances):
        raise UserError(
            f"--batch {options.batch}: only {len(utterances)} utterances would be transcribed; raise --limit, give a "
            "longer --manifest, or lower --batch"
        )
    return Plan(options, builds, checkpoint, tuple(utterances), unusable, options.threads or physical_cores())


def _check_batch(options: Options, builds: Sequence[Build]) -> None:
    """Refuse a batch that no build takes."""
    if options.batch > 1 and all(build.batch == 1 for build in builds):
        loops = ", ".join(dict.fromkeys(build.runtime for build in builds))
        raise UserError(
            f"--batch {options.batch}: is of the streaming loop, and the builds run in {loops}; leave it out, or "
            "measure a build in the streaming loop, too"
        )


def _check_speech(options: Options, builds: Sequence[Build]) -> None:
    """Refuse a rate of tokens for loops that look at frames of several streams at a time."""
    if options.tokens_per_second is None:
        return
    other = next((build for build in builds if build.runtime == "recordings" or build.batch > 1), None)
    if other is not None:
        loop = f"{other.runtime}, batch {other.batch}" if other.batch > 1 else other.runtime
        raise UserError(
            f"--tokens-per-second: {other.shown} in the loop {loop} emits what it recognizes; leave one of the two out"
        )


def _prompts(checkpoint: Checkpoint | None, given: Sequence[Build]) -> Mapping[str, int] | None:
    """Of what is measured; None for the random checkpoint of full size, which is not made yet."""
    if checkpoint is not None:
        return checkpoint.prompts
    folders = [build.folder for build in given if build.folder is not None]
    return Bundle.open(folders[0]).metadata.prompt_dictionary if folders else None


def catalogue() -> dict[str, Build]:
    """Every build that can be made from a checkpoint; the runtime is empty where any will do."""
    from quantize.recipes import RECIPES

    builds = [
        *(
            Build(f"published-{name}", "openvino", "generation1", "nemo", recipe=name)
            for name in ("fp32", "fp16", "int8")
        ),
        *(
            Build(f"{name}{suffix}", "openvino", "", "rewritten", cache, name)
            for name in RECIPES
            for cache, suffix in (("channel", ""), ("kv", KV))
        ),
        *(Build(f"onnxruntime-{name}", "onnxruntime", "generation1", "nemo", recipe=name) for name in ONNX_PRECISIONS),
        Build(NEMO, "nemo", "nemo-streaming"),
        Build(f"{NEMO}-{LOOKAHEAD}", "nemo", "nemo-streaming", lookahead=LOOKAHEAD),
        *(
            Build(f"transformers-{name}", "transformers", "transformers-streaming", recipe=name, lookahead=LOOKAHEAD)
            for name in TRANSFORMERS_PRECISIONS
        ),
    ]
    return {build.name: build for build in builds}


def recipe_of(build: Build) -> Recipe:
    """The recipe by which an OpenVINO folder is made."""
    from quantize.recipes import get_recipe

    return get_recipe(build.recipe)


def _chosen_names(options: Options) -> set[str]:
    """Names of the builds to make: those asked for, or the default list where no folder is given."""
    known = catalogue()
    unknown = [name for name in options.builds if name not in known and name != "all"]
    if unknown:
        raise UserError(f"--build {unknown[0]}: no such build; choose among {', '.join(known)}, or all")
    if "all" in options.builds:
        return set(known)
    if options.builds or options.folders:
        return set(options.builds)
    return {
        name
        for name, build in known.items()
        if build.engine == "openvino"
        and not recipe_of(build).needs_calibration
        and (build.cache == "channel" or any(part.changes_weights for part in recipe_of(build).graphs.values()))
    }


def _given_builds(options: Options) -> list[Build]:
    """The given folders; the runtime is empty where any will do."""
    from verify.runtimes.names import best_runtime

    builds: list[Build] = []
    for path in options.folders:
        bundle = Bundle.open(path, check="hashes")
        _ = bundle.vocabulary  # damaged ones are found before anything runs
        streams = best_runtime(bundle) == "streaming"
        ours = [loop for loop in options.runtimes if loop in ("streaming", "recordings")]
        if not streams and ours:
            raise UserError(
                f"{path}: its {bundle.metadata.encoder} encoder cannot run the {ours[0]} loop; leave out --runtime, "
                "or use --runtime generation1"
            )
        folder = path.resolve()
        if any(build.folder == folder for build in builds):
            raise UserError(f"{path}: given twice; give each folder once")
        builds.append(Build(folder.name, "openvino", "" if streams or options.runtimes else LOOPS[0], folder=folder))
    return builds


def _variants(build: Build, options: Options) -> list[Build]:
    """A build in every loop and precision that is asked for and that it can run in."""
    runtimes = (build.runtime,) if build.runtime else options.runtimes or LOOPS
    precisions = options.precisions if build.engine == "openvino" else (build.precision,)
    variants = [
        replace(
            build,
            runtime=runtime,
            precision=precision,
            batch=options.batch if runtime == "streaming" else 1,
            label=build.name,
        )
        for runtime in runtimes
        for precision in precisions
    ]
    if len(variants) == 1:
        return variants
    return [replace(each, name=f"{each.name}, {each.runtime}, {each.precision}") for each in variants]


def _unique(builds: Sequence[Build]) -> list[Build]:
    """Given folders take their parent's name, too, where another build has the same name."""
    count = Counter(build.name for build in builds)
    renamed: list[Build] = []
    for build in builds:
        name = build.name
        if build.folder is not None and count[name] > 1:
            name = f"{build.folder.parent.name}/{name}"
            if any(other.name == name for other in renamed):
                name = str(build.folder)
        renamed.append(Build(**(vars(build) | {"name": name})))
    return renamed


def _check_outputs(options: Options) -> None:
    """Refuse files that could not be written after minutes of measuring."""
    check_output("--json", options.json_file, ours=BENCH_REPORT)
    check_picture("--picture", options.picture)
    if options.picture is None:
        return
    if options.picture.suffix.lower() not in PICTURES:
        raise UserError(f"--picture {options.picture}: end the name with one of {', '.join(PICTURES)}")
    if find_spec("matplotlib") is None:
        raise UserError("--picture: matplotlib is not installed; pip install 'nemotron-ov[bench]'")
