from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from export.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint.nemo import load_model
from scripts.checkpoints.random import blank_bias
from scripts.checkpoints.wide.__main__ import write_wide_checkpoint
from scripts.checkpoints.wide.channels import Splitter
from scripts.checkpoints.wide.model import Widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDER = Widths(width=256, heads=4, hidden=128)
"""Of the small random checkpoint's 64, 2 and 64: heads are copied twice, a head's channels twice."""


def outputs(model: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Joint's projection of the encoder's outputs and logits of the first frame's cells, copies left out."""
    import torch

    with torch.inference_mode():
        encoded = blank_bias.encode(model, blank_bias.clips(16000)[:2])
        frames = model.joint.project_encoder(encoded)
        predictions = blank_bias._random_predictions(model, 0)
        predicted = model.joint.project_prednet(predictions)
        logits = model.joint.joint_net(frames[0, :8, None] + predicted[None, :8])
        return encoded.numpy(), logits.numpy()


@pytest.fixture(scope="module")
def wide(small_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    output = tmp_path_factory.mktemp("wide") / "wide.nemo"
    write_wide_checkpoint(small_checkpoint.path, output, WIDER, Splitter(seed=0, outliers=0.02), force=False)
    return open_checkpoint(output)


def test_wider_model_computes_the_same(small_nemo: Any, wide: Checkpoint) -> None:
    model = load_model(wide)
    assert model.encoder.layers[0].self_attn.h == 4
    assert model.encoder.d_model == 256
    (old, old_logits), (new, new_logits) = outputs(small_nemo), outputs(model)
    assert new.shape[-1] == 4 * old.shape[-1]
    assert np.abs(new_logits - old_logits).max() < 1e-4 * np.abs(old_logits).max()
    ordered = np.sort(old, axis=-1).repeat(4, axis=-1)
    assert np.abs(np.sort(new, axis=-1) - ordered).max() < 1e-4 * np.abs(old).max()
