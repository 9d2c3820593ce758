"""The recognizer's modules under NeMo's names, without NeMo: what the graphs are traced from.

The tree is made on the ``meta`` device, which takes neither time nor memory, and then given the checkpoint's tensors as
they are, mapped ones included. Parts hold modules and sizes and compute nothing by themselves; the graphs do that. What
NeMo computes when it is constructed is computed here by the same formulas: positions, filter bank and window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.checkpoint.transformers_names import REBUILT
from export.errors import UserError, listed

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
"""The joint's, as NeMo makes them: nodes of the graphs are named by them."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of tensors that are taken; a float of 8 bits means nothing without its scale."""
_POSITION_BASE = 10000.0  # NeMo's INF_VAL, which its positional encoding takes too


class Part(nn.Module):
    """Modules, parameters and sizes of NeMo's, by its names for them."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)


class CausalConv2d(nn.Conv2d):
    """NeMo's ``CausalConv2D`` of kernel 3 and stride 2: two zeros before, one behind, in time and frequency."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, F] to [B, C, T // 2 + 1, F // 2 + 1]."""
        return super().forward(nn.functional.pad(x, (2, 1, 2, 1)))


class RelPositionalEncoding(nn.Module):
    """NeMo's module of that name (Transformer-XL, arXiv:1901.02860, appendix B), for as many positions as are asked."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, x: Tensor, cache_len: int = 0) -> tuple[Tensor, Tensor]:
        """``x`` [B, T, d] as it is, and the encodings [1, 2 * (T + cache_len) - 1, d] from the farthest past on."""
        last = x.shape[1] + cache_len - 1
        positions = torch.arange(last, -last - 1, -1, dtype=torch.float32).unsqueeze(1)
        rate = torch.exp(
            torch.arange(0, self.d_model, 2, dtype=torch.float32) * -(math.log(_POSITION_BASE) / self.d_model)
        )
        encodings = torch.zeros(len(positions), self.d_model)
        encodings[:, 0::2] = torch.sin(positions * rate)
        encodings[:, 1::2] = torch.cos(positions * rate)
        return x, encodings.unsqueeze(0)


class Featurizer(nn.Module):
    """Settings, window [taps] and filter bank [1, mel, bins] of NeMo's ``FilterbankFeatures``, NeMo's defaults."""

    def __init__(self, section: Mapping[str, Any]) -> None:
        super().__init__()
        self.sample_rate = int(section["sample_rate"])
        self.win_length = int(float(section["window_size"]) * self.sample_rate)
        self.hop_length = int(float(section["window_stride"]) * self.sample_rate)
        self.n_fft = int(section.get("n_fft") or 2 ** math.ceil(math.log2(self.win_length)))
        self.nfilt = int(section.get("features", 64))
        self.lowfreq = float(section.get("lowfreq") or 0)
        self.highfreq = float(section.get("highfreq") or self.sample_rate / 2)
        self.mel_norm = section.get("mel_norm", "slaney")
        self.preemph: float | None = section.get("preemph", 0.97)
        self.exact_pad = bool(section.get("exact_pad", False))
        self.frame_splicing = int(section.get("frame_splicing", 1))
        self.log = bool(section.get("log", True))
        self.log_zero_guard_type = section.get("log_zero_guard_type", "add")
        self.log_zero_guard_value = section.get("log_zero_guard_value", 2**-24)
        self.mag_power = float(section.get("mag_power", 2.0))
        self.window_name = section.get("window", "hann")
        self.register_buffer("window", torch.empty(self.win_length))
        self.register_buffer("fb", torch.empty(1, self.nfilt, self.n_fft // 2 + 1))
        self.window: Tensor
        self.fb: Tensor

    def log_zero_guard_value_fn(self, x: Tensor) -> float:
        """What is added before the logarithm: a number, or ``tiny`` or ``eps`` of ``x``'s type."""
        value = self.log_zero_guard_value
        return float(getattr(torch.finfo(x.dtype), value)) if isinstance(value, str) else float(value)

    def rebuilt(self) -> dict[str, Tensor]:
        """Window and filter bank as NeMo computes them.

        Raises:
            UserError: NeMo's configuration asks for others.
        """
        if self.window_name != "hann" or self.mel_norm != "slaney":
            raise UserError(
                f"preprocessor: window {self.window_name!r} and mel_norm {self.mel_norm!r} cannot be computed here; "
                "give a checkpoint that holds preprocessor.featurizer.window and fb"
            )
        filters = slaney_filters(self.sample_rate, self.n_fft, self.nfilt, self.lowfreq, self.highfreq)
        return {
            "preprocessor.featurizer.window": torch.hann_window(self.win_length, periodic=False),
            "preprocessor.featurizer.fb": torch.from_numpy(filters).unsqueeze(0),
        }


def slaney_filters(sample_rate: int, n_fft: int, mel: int, low: float, high: float) -> NDArray[np.float32]:
    """Mel filter bank [mel, n_fft // 2 + 1] as ``librosa.filters.mel`` (ISC licence) computes it, bit for bit.

    Slaney's scale (Auditory Toolbox, 1998) is linear below 1 kHz and logarithmic above; each filter has area 1.

    Args:
        sample_rate: in Hz.
        n_fft: points of the transform.
        mel: filters.
        low: lowest frequency in Hz.
        high: highest frequency in Hz.
    """
    spacing, corner = 200.0 / 3, 1000.0
    corner_mel, step = corner / spacing, np.log(6.4) / 27.0

    def to_mel(hertz: float) -> float:
        return float(corner_mel + np.log(hertz / corner) / step) if hertz >= corner else hertz / spacing

    mels = np.linspace(to_mel(low), to_mel(high), mel + 2)
    edges = spacing * mels
    above = mels >= corner_mel
    edges[above] = corner * np.exp(step * (mels[above] - corner_mel))
    ramps = np.subtract.outer(edges, np.fft.rfftfreq(n=n_fft, d=1.0 / sample_rate))
    widths = np.diff(edges)
    filters = np.zeros((mel, n_fft // 2 + 1), np.float32)
    for index in range(mel):
        rising, falling = -ramps[index] / widths[index], ramps[index + 2] / widths[index + 1]
        filters[index] = np.maximum(0, np.minimum(rising, falling))
    filters *= (2.0 / (edges[2:] - edges[:mel]))[:, np.newaxis]
    return filters


class Recognizer(nn.Module):
    """The whole model: ``preprocessor``, ``encoder``, ``decoder``, ``joint`` and, where it has one, ``prompt_kernel``.

    Args:
        checkpoint: what says the sizes.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        config, encoder = checkpoint.config, checkpoint.encoder
        width = int(encoder["d_model"])
        self.preprocessor = Part(featurizer=Featurizer(config["preprocessor"]))
        self.encoder = _encoder(encoder)
        prednet, jointnet = config["decoder"]["prednet"], config["joint"]["jointnet"]
        hidden, layers = int(prednet["pred_hidden"]), int(prednet["pred_rnn_layers"])
        classes = checkpoint.blank_id + 1
        self.decoder = Part(
            pred_hidden=hidden,
            pred_rnn_layers=layers,
            prediction=nn.ModuleDict(
                {
                    "embed": nn.Embedding(classes, hidden, padding_idx=checkpoint.blank_id),
                    "dec_rnn": Part(lstm=nn.LSTM(hidden, hidden, layers)),
                }
            ),
        )
        joined = int(jointnet["joint_hidden"])
        dropout = [nn.Dropout(jointnet["dropout"])] if jointnet.get("dropout") else []
        self.joint = Part(
            pred=nn.Linear(hidden, joined),
            enc=nn.Linear(width, joined),
            joint_net=nn.Sequential(_ACTIVATIONS[jointnet["activation"]](), *dropout, nn.Linear(joined, classes)),
        )
        if checkpoint.num_prompts is not None:
            self.prompt_kernel = nn.Sequential(
                nn.Linear(width + checkpoint.num_prompts, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
            )


def _encoder(section: Mapping[str, Any]) -> Part:
    """``ConformerEncoder`` of a configuration's section."""
    width, heads = int(section["d_model"]), int(section["n_heads"])
    inner, kernel = width * int(section.get("ff_expansion_factor", 4)), int(section.get("conv_kernel_size", 31))
    bias = bool(section.get("use_bias", True))

    def feed_forward() -> Part:
        return Part(linear1=nn.Linear(width, inner, bias), linear2=nn.Linear(inner, width, bias))

    def layer() -> Part:
        projections = {f"linear_{name}": nn.Linear(width, width, bias) for name in ("q", "k", "v", "out")}
        biases = {f"pos_bias_{name}": nn.Parameter(torch.empty(heads, width // heads)) for name in "uv"}
        return Part(
            fc_factor=0.5,
            norm_feed_forward1=nn.LayerNorm(width),
            feed_forward1=feed_forward(),
            norm_self_att=nn.LayerNorm(width),
            self_attn=Part(
                h=heads, d_k=width // heads, **projections, linear_pos=nn.Linear(width, width, bias=False), **biases
            ),
            norm_conv=nn.LayerNorm(width),
            conv=Part(
                pointwise_conv1=nn.Conv1d(width, 2 * width, 1, bias=bias),
                depthwise_conv=nn.Conv1d(width, width, kernel, groups=width, bias=bias),
                batch_norm=nn.LayerNorm(width),
                pointwise_conv2=nn.Conv1d(width, width, 1, bias=bias),
            ),
            norm_feed_forward2=nn.LayerNorm(width),
            feed_forward2=feed_forward(),
            norm_out=nn.LayerNorm(width),
        )

    return Part(
        d_model=width,
        xscale=math.sqrt(width) if section.get("xscaling", True) else None,
        conv_context_size=[kernel - 1, 0],
        pos_enc=RelPositionalEncoding(width),
        pre_encode=_pre_encode(section, width),
        layers=nn.ModuleList(layer() for _ in range(int(section["n_layers"]))),
    )


def _pre_encode(section: Mapping[str, Any], width: int) -> Part:
    """``ConvSubsampling`` (``dw_striding``, causal): one convolution, then depthwise and pointwise ones in turn."""
    channels = int(section.get("subsampling_conv_channels", -1))
    channels = width if channels == -1 else channels
    stages = int(math.log2(int(section["subsampling_factor"])))
    activation = nn.ReLU(inplace=True)  # one for all stages, as NeMo's: nodes of the graphs are named by it
    layers: list[nn.Module] = [CausalConv2d(1, channels, groups=1), activation]
    bins = int(section["feat_in"]) // 2 + 1
    for _ in range(stages - 1):
        layers += [CausalConv2d(channels, channels, groups=channels), nn.Conv2d(channels, channels, 1), activation]
        bins = bins // 2 + 1
    return Part(conv=nn.Sequential(*layers), out=nn.Linear(channels * bins, width))


def with_rebuilt(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors by NeMo's names; those that follow from the configuration are computed where missing."""
    missing = set(REBUILT) - set(tensors)
    return (Featurizer(checkpoint.config["preprocessor"]).rebuilt() if missing else {}) | dict(tensors)


def build_modules(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> Recognizer:
    """The modules of a checkpoint with its tensors in them, in evaluation mode, without gradients.

    Args:
        checkpoint: what says the sizes.
        tensors: by NeMo's names; mapped ones stay mapped where they are FP32.

    Raises:
        UserError: a tensor is missing, left over, of another shape or type, or holds numbers that are not finite.
    """
    with torch.device("meta"):
        model = Recognizer(checkpoint)
    wanted = model.state_dict()
    found = with_rebuilt(checkpoint, tensors)
    _check_tensors(checkpoint, wanted, found)
    model.requires_grad_(False)
    model.load_state_dict({name: tensor.float() for name, tensor in found.items()}, assign=True)
    return model.eval()


def _check_tensors(checkpoint: Checkpoint, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is left over" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        tensor, shape = found[name], list(wanted[name].shape)
        if list(tensor.shape) != shape:
            problems.append(f"{name} has shape {list(tensor.shape)}, the configuration says {shape}")
        elif tensor.dtype not in _FLOATS:
            problems.append(f"{name} is {str(tensor.dtype).removeprefix('torch.')}")
        elif not all(math.isfinite(float(bound)) for bound in torch.aminmax(tensor)):
            problems.append(f"{name} holds numbers that are not finite")
    if problems:
        raise UserError(f"{checkpoint.path}: of its tensors {listed(sorted(problems), 4)}; download it again")
