"""Makes one ONNX folder in a process of its own: ``python -m scripts.bench.make_onnx PRECISION SOURCE DIRECTORY``."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from export.bundle import Bundle
from scripts.bench.onnx_export import export_encoder, quantize_encoder
from scripts.bench.plan import ONNX_PRECISIONS
from scripts.processes import result_of_a_child


def main() -> None:
    """Parse the arguments, make the folder, print its place."""
    parser = argparse.ArgumentParser()
    parser.add_argument("precision", choices=ONNX_PRECISIONS)
    parser.add_argument("source", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--checkpoint", required=True)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with result_of_a_child() as output:
        if arguments.precision == "fp32":
            export_encoder(arguments.checkpoint, Bundle.open(arguments.source), arguments.directory)
        else:
            quantize_encoder(arguments.source, arguments.directory, arguments.precision)
        output.write(json.dumps({"folder": str(arguments.directory)}))


if __name__ == "__main__":
    main()
