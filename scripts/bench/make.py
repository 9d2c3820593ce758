"""Makes one folder: ``python -m scripts.bench.make TASK SOURCE DIRECTORY``, so that its memory is free afterwards."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from export.bundle import Bundle
from export.errors import NemotronOVError
from scripts.bench.onnx_export import export_encoder, quantize_encoder

QUANTIZE, ONNX_EXPORT, ONNX_QUANTIZE = "quantize", "onnx-export", "onnx-quantize"


def make(arguments: Any) -> None:
    """Do the task; see :func:`main` for its arguments."""
    if arguments.task == ONNX_EXPORT:
        export_encoder(arguments.checkpoint, Bundle.open(arguments.source), arguments.directory)
    elif arguments.task == ONNX_QUANTIZE:
        quantize_encoder(arguments.source, arguments.directory)
    else:
        _quantize(arguments)


def _quantize(arguments: Any) -> None:
    from quantize.pipeline import quantize_bundle
    from quantize.recipes import get_recipe
    from quantize.samples import CalibrationData

    quantize_bundle(
        Bundle.open(arguments.source),
        arguments.directory,
        get_recipe(arguments.recipe),
        calibration=CalibrationData.open(arguments.calibration) if arguments.calibration else None,
        runtime_options=not arguments.plain,
        force=True,
    )


def main() -> None:
    """Parse the arguments, make the folder, print its place."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=(QUANTIZE, ONNX_EXPORT, ONNX_QUANTIZE))
    parser.add_argument("source", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--recipe")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--plain", action="store_true", help="write no run-time options into the graphs")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.task != QUANTIZE:
        logging.disable(logging.WARNING)
    output, sys.stdout = sys.stdout, sys.stderr  # the exporters print
    try:
        make(arguments)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed; pip install 'nemotron-ov[bench,nemo]'")
    except NemotronOVError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    output.write(json.dumps({"folder": str(arguments.directory)}))


if __name__ == "__main__":
    main()
