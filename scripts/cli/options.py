"""Arguments and options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class RuntimeName(StrEnum):
    """How a folder is run."""

    generation1 = "generation1"
    streaming = "streaming"


class Graph(StrEnum):
    """Which encoder graph to export."""

    fused = "fused"
    nemo = "nemo"


Source = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A .nemo file, a Hugging Face id, or 'demo' (the embedded one).")
]
OptionalSource = Annotated[
    str | None,
    typer.Argument(metavar="CHECKPOINT", help="A .nemo file, a Hugging Face id, or 'demo' (the default)."),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.")]
Finished = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `export` or `quantize` wrote.")]
Revision = Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit of the Hugging Face id.")]
Lookahead = Annotated[
    int,
    typer.Option(metavar="R", help="Right context in 80 ms encoder frames; one the checkpoint was trained with."),
]
ForceLookahead = Annotated[
    bool, typer.Option("--force-lookahead", help="Allow a lookahead that the checkpoint was not trained with.")
]
ChunkMs = Annotated[
    int | None,
    typer.Option(metavar="N", help="New audio per step in ms: a multiple of 80 holding R+1 frames. (default: 1120)"),
]
GraphOption = Annotated[
    Graph,
    typer.Option(help="'fused': the encoder step rewritten for speed; 'nemo': NeMo's modules as they are."),
]
Manifest = Annotated[
    Path | None, typer.Option(metavar="FILE", help="NeMo manifest (JSON lines) to transcribe. (default: the demo set)")
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Transcribe only N utterances, spread evenly over the manifest.")
]
NemoLimit = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Compare FP32 with NeMo itself, which is slow, on only N utterances."),
]
Runtime = Annotated[
    RuntimeName,
    typer.Option(
        help="'generation1': the published clients' loop; 'streaming': ours, without its flaws (fused graph only)."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
