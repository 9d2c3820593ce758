"""The runtimes by name, and which one a folder is run with."""

from __future__ import annotations

from typing import Any, Literal

from export.bundle import Bundle
from verify.runtimes.generation1 import Generation1
from verify.runtimes.generation2 import Generation2
from verify.runtimes.streaming import Streaming
from verify.runtimes.transcript import Recognizer

Runtime = Literal["generation1", "generation2", "streaming"]
"""How a folder is run: the published clients' loops, or the runtime without their flaws."""

RUNTIMES: dict[Runtime, type[Generation1 | Streaming]] = {
    "generation1": Generation1,
    "generation2": Generation2,
    "streaming": Streaming,
}


def open_runtime(bundle: Bundle, runtime: Runtime, *, nemo_start: bool = False, **options: Any) -> Recognizer:
    """A folder under a runtime.

    Args:
        bundle: the folder.
        runtime: a name of :data:`RUNTIMES`.
        nemo_start: begin streams as NeMo does; only the streaming runtime can.
        options: of every runtime.
    """
    if nemo_start:
        options["nemo_start"] = True
    return RUNTIMES[runtime](bundle, **options)


def best_runtime(bundle: Bundle) -> Runtime:
    """The streaming runtime where a folder's graph knows how streams begin, else the clients' loop."""
    return "streaming" if bundle.metadata.lead_mel_frames else "generation1"
