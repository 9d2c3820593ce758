"""What a user converts is nobody else's business: no library reports it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import ROOT

CONVERT = """
import sys
{before}
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event in ("os.fork", "socket.connect") else None)
import nncf, openvino as ov, torch
module = torch.nn.Linear(64, 64)
model = ov.convert_model(module, example_input=torch.zeros(1, 64))
nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
print(sorted(set(seen)))
"""


@pytest.mark.parametrize(("before", "seen"), [("import quantize.pipeline", "[]"), ("", "['os.fork']")])
def test_a_conversion_starts_no_process_and_no_connection(before: str, seen: str, tmp_path: Path) -> None:
    """Without our packages it does: else the first case would prove nothing."""
    code = CONVERT.format(before=before)
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == seen


@pytest.mark.parametrize(("before", "left"), [("import export", []), ("", [".cache", ".ses"])])
def test_onnx_runtime_keeps_no_session(before: str, left: list[str], tmp_path: Path) -> None:
    """NeMo imports it. Without our packages it does: else the first case would prove nothing."""
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    code = f"{before}\nimport onnxruntime"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert sorted(path.name for path in tmp_path.iterdir()) == left
