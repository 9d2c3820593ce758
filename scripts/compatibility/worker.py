"""One folder in the clients' loop, under the OpenVINO of the interpreter that runs this: JSON in, JSON out.

It imports what runs a folder and nothing else, so that an environment with an old OpenVINO and its NumPy is enough.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from export.bundle import Bundle
from export.errors import UserError
from verify.runtimes.generation1 import Generation1
from verify.runtimes.graph import CLIENTS_CONFIG, FP32_CONFIG

CONFIGS = {"f32": FP32_CONFIG, "default": CLIENTS_CONFIG}
"""OpenVINO properties by what ``verify --precision`` calls them."""


def tokens(task: dict[str, Any]) -> dict[str, Any]:
    """Tokens of every recording in every precision.

    Args:
        task: ``folder``; ``audio``, an ``.npz`` of signals by number; ``languages`` of them; ``precisions``.

    Returns:
        ``openvino``, its version, and for each precision ``tokens`` or an ``error``.
    """
    import openvino as ov

    bundle = Bundle.open(task["folder"])
    runs: dict[str, Any] = {}
    with np.load(task["audio"]) as audio:
        for precision in task["precisions"]:
            try:
                runtime = Generation1(bundle, config=CONFIGS[precision])
                transcripts = [
                    runtime.transcribe(audio[str(i)], language) for i, language in enumerate(task["languages"])
                ]
                runs[precision] = {"tokens": [each.tokens for each in transcripts]}
            except UserError as error:
                runs[precision] = {"error": str(error)}
    return {"openvino": ov.get_version().split("-")[0], "runs": runs}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(tokens(json.load(sys.stdin))) + "\n")
