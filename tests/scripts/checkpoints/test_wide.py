from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from export.checkpoint import Checkpoint, open_checkpoint
from export.checkpoint.nemo import load_model
from export.checkpoint.weights import read_weights
from export.errors import UserError
from export.graphs.modules import build_modules
from scripts.checkpoints.random import blank_bias
from scripts.checkpoints.wide.__main__ import app, write_wide_checkpoint
from scripts.checkpoints.wide.channels import OUTLIERS, Channels, Splitter, copied
from scripts.checkpoints.wide.model import Widening, Widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDER = Widths(width=256, heads=4, hidden=128)
"""Of the small random checkpoint's 64, 2 and 64: heads are copied twice, and channels twice in each."""


def widened(checkpoint: Checkpoint, output: Path, seed: int = 0) -> Checkpoint:
    write_wide_checkpoint(checkpoint.path, output, WIDER, Splitter(seed, outliers=0.02), force=False)
    return open_checkpoint(output)


@pytest.fixture(scope="module")
def wide(small_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return widened(small_checkpoint, tmp_path_factory.mktemp("wide") / "wide.nemo")


def outputs(model: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """The encoder's outputs, each sorted (copies are in random order), and logits of some frames after some tokens."""
    import torch

    with torch.inference_mode():
        encoded = blank_bias.encode(model, blank_bias.clips(16000)[:2])
        frames = model.joint.project_encoder(encoded)
        predicted = model.joint.project_prednet(blank_bias._random_predictions(model, 0))
        logits = model.joint.joint_net(frames[0, :8, None] + predicted[None, :8])
        return np.sort(encoded.numpy()), logits.numpy()


def check_same(old: Any, new: Any) -> None:
    times = new.encoder.d_model // old.encoder.d_model
    assert times == 4
    (encoded, logits), (wide_encoded, wide_logits) = outputs(old), outputs(new)
    np.testing.assert_allclose(wide_encoded, encoded.repeat(times, axis=-1), atol=1e-4 * np.abs(encoded).max())
    np.testing.assert_allclose(wide_logits, logits, atol=1e-4 * np.abs(logits).max())


def test_nemo_computes_the_same_in_the_wider_model(small_nemo: Any, wide: Checkpoint) -> None:
    model = load_model(wide)
    assert type(model) is type(small_nemo)
    assert (model.encoder.layers[0].self_attn.h, model.encoder.layers[0].self_attn.d_k) == (4, 64)
    check_same(small_nemo, model)


def test_so_it_does_without_a_prompt(small_english_checkpoint: Checkpoint, tmp_path: Path) -> None:
    new = load_model(widened(small_english_checkpoint, tmp_path / "wide.nemo"))
    check_same(load_model(small_english_checkpoint), new)


def test_a_channel_that_is_not_scaled_back_is_seen(small_nemo: Any, wide: Checkpoint) -> None:
    """The comparison above is not blind: one channel of 256 of one norm is enough."""
    tensors = read_weights(wide)
    name = "encoder.layers.1.norm_conv.weight"
    scaled = tensors[name].clone()
    scaled[0] *= 2.0
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_same(small_nemo, load_model(wide, tensors | {name: scaled}))


def test_the_export_takes_it(wide: Checkpoint) -> None:
    modules = build_modules(wide, read_weights(wide))
    assert modules.encoder.d_model == 256
    assert wide.config["joint"]["jointnet"]["joint_hidden"] == 128


def test_same_seed_gives_the_same_bytes_and_another_gives_others(
    small_checkpoint: Checkpoint, wide: Checkpoint, tmp_path: Path
) -> None:
    again, other = (widened(small_checkpoint, tmp_path / f"{seed}.nemo", seed) for seed in (0, 1))
    assert again.sha256 == wide.sha256 != other.sha256


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_parts_of_a_weight_add_up_to_it(spread: float) -> None:
    splitter = Splitter(0, spread, outliers=0.1)
    channels = splitter.channels(8, 32).scaled(splitter.scales(32)).then(3)
    weight = np.random.default_rng(0).standard_normal((5, 11, 2))
    wide = splitter.split(weight, channels) * channels.scale[:, None]
    found = np.stack([wide[:, channels.source == channel].sum(axis=1) for channel in range(11)], axis=1)
    np.testing.assert_allclose(found, weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(wide[:, 32:], weight[:, 8:])


def test_a_spread_of_one_keeps_the_error_of_rounding_and_none_averages_it() -> None:
    """Errors in proportion to a row's weights average out over equal parts, and do not over uneven ones."""
    random = np.random.default_rng(0)
    weight, signal = random.standard_normal((64, 128)), random.standard_normal((128, 50))

    def error(wide: NDArray[Any], channels: Channels) -> float:
        size = np.sqrt((wide**2).mean(axis=1, keepdims=True))
        return float(np.std(size * random.standard_normal(wide.shape) @ copied(signal, channels)))

    plain = Channels.copies(np.arange(128))
    old = error(weight, plain)
    for spread, expected in ((0.0, np.sqrt(1 / 8)), (1.0, 1.0)):
        splitter = Splitter(0, spread, outliers=0.0)
        channels = splitter.channels(128, 1024)
        assert error(splitter.split(weight, channels), channels) / old == pytest.approx(expected, rel=0.1)


def test_rows_that_are_copies_of_one_row_have_other_weights() -> None:
    splitter = Splitter(0)
    rows, columns = splitter.channels(4, 16), splitter.channels(8, 32)
    wide = splitter.split(copied(np.ones((4, 8)), rows), columns)
    assert len({row.tobytes() for row in wide}) == 16


def test_outliers_are_the_share_that_is_asked_for_in_the_channels_that_are_named() -> None:
    splitter = Splitter(0, outliers=0.01)
    where = splitter.outliers(1000)
    scales = splitter.scales(1000, where)
    assert set(np.flatnonzero(scales >= OUTLIERS[0])) == set(where)
    assert len(where) == 10
    assert scales.max() <= OUTLIERS[1]
    assert (Splitter(0, outliers=0.0).scales(1000) == 1.0).all()


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (Widths(100, 2, 64), "--width 100: .* has 64; give a multiple"),
        (Widths(128, 3, 64), "--heads 3: .* has 2; give a multiple"),
        (Widths(128, 8, 64), "--heads 8: a head of 128/8 channels is no multiple of one of 64/2"),
        (Widths(128, 2, 100), "--hidden 100: .* has 64; give a multiple"),
    ],
)
def test_widths_that_are_no_multiples_are_refused(
    small_checkpoint: Checkpoint, tmp_path: Path, widths: Widths, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write_wide_checkpoint(small_checkpoint.path, tmp_path / "wide.nemo", widths, Splitter(0), force=False)
    assert not list(tmp_path.iterdir())


def test_a_tensor_that_nothing_widens_is_refused(small_checkpoint: Checkpoint) -> None:
    tensors = read_weights(small_checkpoint)
    more = tensors | {"ctc_decoder.weight": tensors["joint.enc.weight"]}
    with pytest.raises(UserError, match=r"holds ctc_decoder\.weight, which nothing here widens"):
        Widening(small_checkpoint, more, WIDER, Splitter(0)).tensors()


def test_bad_input_of_the_command_is_one_line(small_checkpoint: Checkpoint, tmp_path: Path) -> None:
    taken = tmp_path / "taken.nemo"
    taken.write_text("mine")
    result = CliRunner().invoke(app, [str(small_checkpoint.path), str(taken)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {taken}: already exists; add --force")
    assert taken.read_text() == "mine"


def test_the_checkpoint_itself_is_not_replaced(small_checkpoint: Checkpoint, tmp_path: Path) -> None:
    own = tmp_path / "own.nemo"
    own.write_bytes(small_checkpoint.path.read_bytes())
    with pytest.raises(UserError, match=r"own\.nemo: is the checkpoint that would be widened"):
        write_wide_checkpoint(own, own, WIDER, Splitter(0), force=True)
    assert own.read_bytes() == small_checkpoint.path.read_bytes()


def test_a_width_of_nothing_is_refused(tmp_path: Path) -> None:
    """0 is a multiple of every width, and no divisor."""
    result = CliRunner().invoke(app, ["demo", str(tmp_path / "wide.nemo"), "--heads", "0"])
    assert result.exit_code == 2
    assert "--heads" in result.stderr


def test_a_full_disk_is_one_line(small_checkpoint: Checkpoint, small_disk: Path) -> None:
    with pytest.raises(
        UserError, match=r"wide\.nemo: cannot be written \(PyTorch's writer failed, and 3\.\d MB were free"
    ):
        widened(small_checkpoint, small_disk / "wide.nemo")
    assert not any(small_disk.iterdir())
