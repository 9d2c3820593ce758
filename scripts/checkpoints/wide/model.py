"""Every tensor of a checkpoint, widened: which channels it reads and which it writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.errors import UserError
from scripts.checkpoints.wide.channels import Array, Channels, Splitter, copied, to_torch

if TYPE_CHECKING:
    import torch

    from export.checkpoint import Checkpoint


@dataclass(frozen=True)
class Widths:
    """Sizes of the wider model; the defaults are the published checkpoint's."""

    width: int = 1024  # of the encoder
    heads: int = 8
    hidden: int = 640  # of prediction network and joint


class Widening:
    """A checkpoint's tensors at other widths.

    Args:
        checkpoint: what says the old widths.
        tensors: by NeMo's names.
        widths: the new ones.
        splitter: what draws.

    Raises:
        UserError: the widths are no multiples of the old ones.
    """

    def __init__(
        self, checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor], widths: Widths, splitter: Splitter
    ) -> None:
        self._path, self._widths, self._splitter = checkpoint.path, widths, splitter
        self._left = {name: tensor.double().numpy() for name, tensor in tensors.items()}
        self._wide: dict[str, torch.Tensor] = {}
        encoder, hidden = checkpoint.encoder, checkpoint.config["decoder"]["prednet"]["pred_hidden"]
        self._old = Widths(int(encoder["d_model"]), int(encoder["n_heads"]), int(hidden))
        self._joint_hidden = int(checkpoint.config["joint"]["jointnet"]["joint_hidden"])
        self._layers = int(encoder["n_layers"])
        if encoder.get("xscaling", True):
            raise UserError(f"{checkpoint.path}: encoder.xscaling multiplies by the width's root; give one without")
        self._check()
        self.times = widths.width // self._old.width
        self._stream = splitter.channels(self._old.width, widths.width)
        self._outliers = splitter.outliers(widths.width)

    def _check(self) -> None:
        new, old = self._widths, self._old
        for option, size, base in (
            ("--width", new.width, old.width),
            ("--heads", new.heads, old.heads),
            ("--hidden", new.hidden, old.hidden),
            ("--hidden", new.hidden, self._joint_hidden),
        ):
            if size % base:
                raise UserError(f"{option} {size}: {self._path} has {base}; give a multiple")
        if new.width % new.heads or (new.width // new.heads) % (old.width // old.heads):
            raise UserError(
                f"--heads {new.heads}: a head of {new.width}/{new.heads} channels is no multiple of one of "
                f"{old.width}/{old.heads}; give fewer heads, or another --width"
            )

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of them, in the order of the old ones.

        Raises:
            UserError: there is one that this model does not have.
        """
        names = list(self._left)
        for name in [name for name in names if name.startswith("preprocessor.")]:
            self._wide[name] = to_torch(self._left.pop(name))
        self._pre_encode()
        has_prompt = "prompt_kernel.0.weight" in self._left
        for number in range(self._layers):
            last = number + 1 == self._layers
            encoded = self._layer(f"encoder.layers.{number}", scaled=last and has_prompt)
        if has_prompt:
            encoded = self._prompt_kernel(encoded)
        self._transducer(encoded)
        if self._left:
            raise UserError(f"{self._path}: holds {next(iter(self._left))}, which nothing here widens")
        return {name: self._wide[name] for name in names}

    def _norm_scales(self) -> Array:
        """Of a norm's outputs: outliers are the same channels of the residual stream in all layers."""
        return self._splitter.scales(self._widths.width, self._outliers)

    def _linear(self, name: str, rows: Channels | None, columns: Channels | None) -> None:
        """A product, convolution or recurrent matrix, and its bias."""
        weight = self._left.pop(f"{name}.weight")
        weight = weight if rows is None else copied(weight, rows)
        self._wide[f"{name}.weight"] = to_torch(weight if columns is None else self._splitter.split(weight, columns))
        self._vectors(name, rows, "bias")

    def _vectors(self, name: str, rows: Channels | None, *kinds: str) -> None:
        for kind in kinds:
            if (vector := self._left.pop(f"{name}.{kind}", None)) is not None:
                self._wide[f"{name}.{kind}"] = to_torch(vector if rows is None else copied(vector, rows))

    def _pre_encode(self) -> None:
        name = "encoder.pre_encode"
        numbers = sorted(
            int(found[1]) for key in self._left if (found := re.match(r"encoder\.pre_encode\.conv\.(\d+)\.weight", key))
        )
        old = len(self._left[f"{name}.conv.0.weight"])
        channels = self._splitter.channels(old, old * self.times)
        for number in numbers:
            rows = channels
            if number == numbers[-1]:  # ReLU follows, which keeps positive scales
                rows = channels.scaled(self._splitter.scales(len(channels.source)))
            depthwise = self._left[f"{name}.conv.{number}.weight"].shape[1] == 1
            self._linear(f"{name}.conv.{number}", rows, None if depthwise else channels)
        bins = self._left[f"{name}.out.weight"].shape[1] // old
        self._linear(f"{name}.out", self._stream, rows.repeated(bins))

    def _normed(self, name: str) -> Channels:
        """A norm of the residual stream, whose outputs are scaled."""
        scaled = self._stream.scaled(self._norm_scales())
        self._vectors(name, scaled, "weight", "bias")
        return scaled

    def _layer(self, name: str, *, scaled: bool) -> Channels:
        """One conformer layer, and the channels that it gives; ``scaled`` where no residual stream takes them."""
        for number in (1, 2):
            part = f"{name}.feed_forward{number}"
            inner = self._left[f"{part}.linear2.weight"].shape[1]
            hidden = self._splitter.channels(inner, inner * self.times)
            self._linear(f"{part}.linear1", hidden, self._normed(f"{name}.norm_feed_forward{number}"))
            self._linear(f"{part}.linear2", self._stream, hidden)
        self._attention(name)
        channels = self._splitter.channels(self._old.width, self._widths.width)
        self._linear(f"{name}.conv.pointwise_conv1", channels.blocks(2), self._normed(f"{name}.norm_conv"))
        self._linear(f"{name}.conv.depthwise_conv", channels, None)
        self._vectors(f"{name}.conv.batch_norm", channels, "weight", "bias")
        self._linear(f"{name}.conv.pointwise_conv2", self._stream, channels)
        if scaled:
            return self._normed(f"{name}.norm_out")
        self._vectors(f"{name}.norm_out", self._stream, "weight", "bias")
        return self._stream

    def _attention(self, name: str) -> None:
        """Heads are copied, and channels in each head: the split of a score goes into keys and positions.

        A score is a sum over m copies, divided by √m more than before.
        """
        old, new, part = self._old, self._widths, f"{name}.self_attn"
        depth, copies = old.width // old.heads, (new.width // new.heads) // (old.width // old.heads)
        times = new.heads // old.heads
        channels: Array = np.arange(old.width).reshape(old.heads, 1, depth, 1)
        plain = Channels.copies(np.broadcast_to(channels, (old.heads, times, depth, copies)).ravel())
        keys = plain.scaled(np.sqrt(copies) * self._splitter.parts(new.width // copies, copies).ravel())
        values = plain.scaled(self._splitter.scales(new.width))
        normed = self._normed(f"{name}.norm_self_att")
        for kind, rows in (("q", plain), ("k", keys), ("v", values)):
            self._linear(f"{part}.linear_{kind}", rows, normed)
        self._linear(f"{part}.linear_out", self._stream, values)
        self._positions(part, keys)
        for kind in "uv":
            bias = copied(self._left.pop(f"{part}.pos_bias_{kind}").ravel(), plain)
            self._wide[f"{part}.pos_bias_{kind}"] = to_torch(bias.reshape(new.heads, -1))

    def _positions(self, part: str, rows: Channels) -> None:
        """Of the wider sinusoids every k-th pair has the old wavelengths; the others are not read."""
        weight = copied(self._left.pop(f"{part}.linear_pos.weight"), rows)
        wide = np.zeros((len(weight), self._widths.width))
        for pair in (0, 1):
            wide[:, pair :: 2 * self.times] = weight[:, pair::2]
        self._wide[f"{part}.linear_pos.weight"] = to_torch(wide)

    def _prompt_kernel(self, encoded: Channels) -> Channels:
        inner, reads = self._left["prompt_kernel.0.weight"].shape
        hidden = self._splitter.channels(inner, inner * self.times)
        self._linear("prompt_kernel.0", hidden, encoded.then(reads - self._old.width))
        self._linear("prompt_kernel.2", self._stream, hidden)
        return self._stream

    def _transducer(self, encoded: Channels) -> None:
        hidden = self._splitter.channels(self._old.hidden, self._widths.hidden)
        joined = self._splitter.channels(self._joint_hidden, self._widths.hidden)
        embedding = self._left.pop("decoder.prediction.embed.weight")
        self._wide["decoder.prediction.embed.weight"] = to_torch(embedding[:, hidden.source])
        recurrent = r"decoder\.prediction\.dec_rnn\.lstm\.(weight|bias)_[ih]h_l\d+"
        for key in [key for key in self._left if re.fullmatch(recurrent, key)]:
            tensor = copied(self._left.pop(key), hidden.blocks(4))
            self._wide[key] = to_torch(tensor if tensor.ndim == 1 else self._splitter.split(tensor, hidden))
        self._linear("joint.enc", joined, encoded)
        self._linear("joint.pred", joined, hidden)
        output = next(key for key in self._left if re.fullmatch(r"joint\.joint_net\.\d+\.weight", key))
        self._linear(output.removesuffix(".weight"), None, joined)


def widened_config(config: dict[str, Any], widths: Widths, times: int) -> dict[str, Any]:
    """A configuration at these widths, ``times`` those of its encoder; the given one is changed."""
    encoder, prednet, jointnet = config["encoder"], config["decoder"]["prednet"], config["joint"]["jointnet"]
    encoder |= {"d_model": widths.width, "n_heads": widths.heads}
    if encoder.get("subsampling_conv_channels", -1) != -1:
        encoder["subsampling_conv_channels"] *= times
    prednet["pred_hidden"] = jointnet["joint_hidden"] = widths.hidden
    for section, key, size in (
        (jointnet, "encoder_hidden", widths.width),
        (jointnet, "pred_hidden", widths.hidden),
        (config.get("model_defaults", {}), "enc_hidden", widths.width),
        (config.get("model_defaults", {}), "pred_hidden", widths.hidden),
        (config.get("model_defaults", {}), "joint_hidden", widths.hidden),
    ):
        if key in section:
            section[key] = size
    return config
