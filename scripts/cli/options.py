"""Arguments and options that several verbs share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from export.errors import UserError

if TYPE_CHECKING:
    from export.bundle import Bundle
    from export.checkpoint.hub import Format
    from export.profiles import Asked
    from verify.data.sets import DataSet
    from verify.runs import Oracle
    from verify.runtimes.graph import Config


class RuntimeName(StrEnum):
    """How a folder is run."""

    generation1 = "generation1"
    generation2 = "generation2"
    streaming = "streaming"


class RunBy(StrEnum):
    """Who runs a checkpoint that folders are compared with."""

    nemo = "nemo"
    transformers = "transformers"
    both = "both"

    @property
    def oracles(self) -> list[Oracle]:
        """The oracle that gives the reference, and the second oracle where there is one."""
        return ["nemo", "transformers"] if self is RunBy.both else [self.value]  # type: ignore[list-item]


class Precision(StrEnum):
    """What a folder computes in."""

    f32 = "f32"
    default = "default"


class Cache(StrEnum):
    """What the encoder's attention cache holds."""

    channel = "channel"
    kv = "kv"


class SplitName(StrEnum):
    """Splits of FLEURS."""

    train = "train"
    validation = "validation"
    test = "test"


class Encoder(StrEnum):
    """How the encoder is exported."""

    rewritten = "rewritten"
    nemo = "nemo"


class OracleName(StrEnum):
    """What the graphs are compared with when they are exported."""

    nemo = "nemo"
    torch = "torch"


class CheckpointFormat(StrEnum):
    """How a checkpoint is laid out."""

    nemo = "nemo"
    transformers = "transformers"


class Layout(StrEnum):
    """How folders become repositories; upper case, because strings have a method ``split``."""

    FOLDERS = "folders"
    SPLIT = "split"


def _refuse_graph(value: str | None) -> None:
    if value is not None:
        name = Encoder.rewritten if value == "fused" else value
        raise UserError(f"--graph {value}: the option has another name now; use --encoder {name}")


def _local(value: Path | None) -> Path | None:
    """A folder as it was given, or where ``hf://OWNER/NAME/int8@REVISION`` lies in the client's cache."""
    if value is None or not str(value).startswith("hf:/"):
        return value
    from export.remote_folder import local_folder

    return local_folder(value)


def _all_local(values: list[Path] | None) -> list[Path] | None:
    """Each of several, as :func:`_local`."""
    return None if values is None else [found for value in values if (found := _local(value)) is not None]


Source = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A .nemo file, a folder as Transformers lays it out, a Hugging Face id, or 'demo' (the embedded one).",
    ),
]
OptionalSource = Annotated[
    str | None,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A .nemo file, a folder as Transformers lays it out, a Hugging Face id, or 'demo' (the default).",
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")]
_FINISHED = "A folder that `export` or `quantize` wrote, or hf://OWNER/NAME/FOLDER@REVISION."
Finished = Annotated[Path, typer.Argument(metavar="DIR", help=_FINISHED, callback=_local)]
OptionalFinished = Annotated[Path | None, typer.Argument(metavar="DIR", help=_FINISHED, callback=_local)]
ManyFinished = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[DIR...]",
        help="Finished folders; without any, builds are made from a checkpoint.",
        callback=_all_local,
    ),
]
Fp32 = Annotated[
    Path,
    typer.Argument(metavar="FP32_DIR", help="The folder that `export` wrote, or its hf:// address.", callback=_local),
]
Revision = Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit of the Hugging Face id.")]
CheckpointFormatOption = Annotated[
    CheckpointFormat | None,
    typer.Option(
        "--checkpoint-format",
        help="Of a Hugging Face id that holds both. (default: the .nemo file, if there is one)",
        show_default=False,
    ),
]
OracleOption = Annotated[
    OracleName | None,
    typer.Option(
        "--oracle",
        help="What each graph is compared with: NeMo, or the PyTorch module that it is traced from. (default: 'nemo' "
        "for a .nemo file where NeMo is installed, 'torch' else)",
        show_default=False,
    ),
]
RunByOption = Annotated[
    RunBy | None,
    typer.Option(
        "--run-by",
        help="Who runs the checkpoint: NeMo (the default); Hugging Face Transformers; or both, where NeMo decides and "
        "the report says which two of the three agree.",
        show_default=False,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="'published' (the default), or a latency tier with kv cache: 80ms, 160ms, 320ms, 560ms, 1120ms.",
    ),
]
Lookahead = Annotated[
    int,
    typer.Option(metavar="R", help="Right context in 80 ms encoder frames; one the checkpoint was trained with."),
]
OptionalLookahead = Annotated[
    int | None,
    typer.Option(
        metavar="R", help="Right context in 80 ms encoder frames; one the checkpoint was trained with. (default: 0)"
    ),
]
ForceLookahead = Annotated[
    bool, typer.Option("--force-lookahead", help="Allow a lookahead that the checkpoint was not trained with.")
]
ChunkMs = Annotated[
    int | None,
    typer.Option(metavar="N", help="New audio per step in ms: a multiple of 80 holding R+1 frames. (default: 1120)"),
]
CacheOption = Annotated[
    Cache | None,
    typer.Option(
        help="'channel': NeMo's attention cache; 'kv': keys and values, faster and twice as large. (default: channel)",
        show_default=False,
    ),
]
EncoderOption = Annotated[
    Encoder,
    typer.Option(help="'rewritten': the encoder step rewritten for speed; 'nemo': NeMo's modules as they are."),
]
OldGraph = Annotated[str | None, typer.Option("--graph", hidden=True, callback=_refuse_graph)]
Languages = Annotated[
    str | None,
    typer.Option(
        metavar="TAG,…", help="Keep only the pieces that text in these languages can need: en,es,pt-BR. (default: all)"
    ),
]
Scripts = Annotated[
    str | None,
    typer.Option(metavar="NAME,…", help="The same by scripts instead: latin,cyrillic, or ISO codes. (default: all)"),
]
Manifest = Annotated[
    Path | None, typer.Option(metavar="FILE", help="NeMo manifest (JSON lines) to transcribe. (default: the demo set)")
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="Instead of a manifest: fleurs:en_us,es_419 or fleurs:all from the Hugging Face Hub; a folder with a copy "
        "of FLEURS (DIR or DIR:en_us,es_419); or one of recordings with a .txt beside each (DIR or DIR:de-DE).",
    ),
]
SplitOption = Annotated[SplitName | None, typer.Option("--split", help="Of FLEURS. (default: test)")]
CalibrationSplit = Annotated[
    SplitName | None, typer.Option("--split", help="Of FLEURS; never test. (default: validation)")
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Transcribe only N utterances, spread evenly over the manifest.")
]
NemoLimit = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Compare FP32 with NeMo itself, which is slow, on only N utterances."),
]
OptionalRuntime = Annotated[
    RuntimeName | None,
    typer.Option(help="As in `transcribe`. (default: 'streaming' against a checkpoint, 'generation1' else)"),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="'default': what OpenVINO takes on this processor, as the clients run; the reference stays f32."),
]
NemoStart = Annotated[
    bool,
    typer.Option(
        "--nemo-start",
        help="Begin streams as NeMo does in this chunk: at 80 ms with errors (streaming).",
    ),
]
Normalizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How texts are compared: nfkc (ours, which the limits were set with), published (as the published tables; "
        "a language's number is the mean of its utterances'), whisper, none. (default: nfkc, or the stored report's)",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="local|auto|HOST:PORT",
        help="Transcribe with folders on a Ray cluster that sees the same files: the one that runs on this machine "
        "(auto), its address, ray://HOST:PORT from outside of it, or one of this machine alone (local).",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a folder of ours that is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def layout_of(chosen: CheckpointFormat | None) -> Format | None:
    """What ``--checkpoint-format`` says."""
    return chosen.value if chosen else None


def config_of(precision: Precision) -> Config | None:
    """OpenVINO properties of a precision; None for those of every runtime."""
    from verify.runtimes.graph import CLIENTS_CONFIG

    return CLIENTS_CONFIG if precision is Precision.default else None


def data_set(data: str | None, split: SplitName | None) -> DataSet | None:
    """What `--data` and `--split` name.

    Raises:
        UserError: a split without data.
    """
    from verify.data.sets import DataSet

    if data is None:
        if split is not None:
            raise UserError(f"--split {split.value}: says which part of --data; add --data, or leave it out")
        return None
    return DataSet(data, split.value if split else None)


def language_of(bundle: Bundle, language: str) -> str:
    """The folder's prompt for ``--language``; one that it does not have is refused."""
    from export.languages import DEFAULT_LANGUAGE, language_key

    prompts = bundle.metadata.prompt_dictionary
    if prompts is None and language != DEFAULT_LANGUAGE:
        raise UserError(f"--language {language}: {bundle.path} takes no language; leave the option out")
    try:
        return language if prompts is None else language_key(language, prompts)
    except ValueError as error:
        raise UserError(f"--language: {error} ({bundle.path}); choose another, or {DEFAULT_LANGUAGE}") from error


def asked(
    profile: str | None,
    lookahead: int | None,
    chunk_ms: int | None,
    cache: Cache | None,
    encoder: Encoder,
    force_lookahead: bool,
    languages: str | None,
    scripts: str | None,
    oracle: OracleName | None,
) -> Asked:
    """What the options of an export ask for."""
    from export.profiles import Asked

    chosen = cache.value if cache else None
    return Asked(
        profile,
        lookahead,
        chunk_ms,
        chosen,
        encoder.value,
        force_lookahead,
        _names(languages),
        _names(scripts),
        oracle.value if oracle else None,
    )


def _names(text: str | None) -> tuple[str, ...]:
    """The values of a comma-separated option."""
    return () if text is None else tuple(name.strip() for name in text.split(","))


def escaped(lines: Sequence[str]) -> list[str]:
    """Lines as they are, without what rich would take for markup."""
    from rich.markup import escape

    return [escape(line) for line in lines]


KeepWorst = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="Write a recipe that keeps the N worst groups in higher precision."),
]
KlBudget = Annotated[
    float | None,
    typer.Option(metavar="X", min=0, help="Write a recipe that keeps as many groups as leave a KL of X."),
]
ExtraMb = Annotated[
    float | None,
    typer.Option(
        metavar="MB",
        min=0,
        help="Write a recipe that keeps, of the groups that fit in MB more, those whose divergences add up to most.",
    ),
]


def one_choice(keep_worst: int | None, kl_budget: float | None, extra_mb: float | None) -> bool:
    """Whether one of these was given.

    Raises:
        UserError: more than one.
    """
    named = {"--keep-worst": keep_worst, "--kl-budget": kl_budget, "--extra-mb": extra_mb}
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: each says how many groups are kept; give one")
    return bool(given)
