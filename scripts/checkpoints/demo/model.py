"""The demo model: its configuration, its tokenizer and its construction as the real NeMo class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.checkpoints.demo.corpus import LANGUAGES, Split, draw_sentence, generator, joined_text

if TYPE_CHECKING:
    import torch

MODEL_CLASS = "nemo.collections.asr.models.rnnt_bpe_models_prompt.EncDecRNNTBPEModelWithPrompt"
MEL_BINS = 128
VOCABULARY_SIZE = 1024
ENCODER_WIDTH = 128
ENCODER_LAYERS = 6
HIDDEN = 160  # of the prediction and the joint network
SUBSAMPLING_CHANNELS = 32
LOOKAHEADS = (3, 0, 6, 13)  # encoder frames of 80 ms, in the order of the real configuration
LEFT_CONTEXT = 56
AUTO_PROMPT_ID = 101
MAX_SYMBOLS = 10

# Other names of the same prompts, as in the real dictionary.
_PROMPT_ALIASES = {"en": 0, "es": 3, "fr": 8, "de": 9, "ja": 10}


def train_tokenizer(directory: Path, seed: int, sentences_per_language: int = 4000) -> Path:
    """Train the SentencePiece BPE model on training sentences; writes the three files NeMo packs."""
    import sentencepiece

    directory.mkdir(parents=True, exist_ok=True)
    rng = generator(f"tokenizer-{seed}")
    lines = []
    for language in LANGUAGES:
        for _ in range(sentences_per_language):
            sentences = [draw_sentence(language, Split.TRAIN, rng) for _ in range(1 + (rng.random() < 0.3))]
            lines.append(joined_text(language, sentences, tags=True))
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_prefix=str(directory / "tokenizer"), model_type="bpe",
        vocab_size=VOCABULARY_SIZE, character_coverage=1.0, bos_id=-1, eos_id=-1, pad_id=-1, unk_id=0,
        user_defined_symbols=[language.piece for language in LANGUAGES], minloglevel=2,
        normalization_rule_name="identity", num_threads=1,
    )  # fmt: skip
    pieces = (directory / "tokenizer.vocab").read_text(encoding="utf-8").splitlines()
    vocabulary = [line.split("\t")[0] for line in pieces if not line.startswith("<unk>")]
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return directory


def model_config(tokenizer_directory: Path) -> dict[str, Any]:
    """The configuration of the real checkpoint, narrow and shallow."""
    prompts = {language.tag: language.prompt_id for language in LANGUAGES} | _PROMPT_ALIASES
    return {
        "target": MODEL_CLASS,
        "sample_rate": 16_000,
        "model_defaults": {
            "enc_hidden": ENCODER_WIDTH,
            "pred_hidden": HIDDEN,
            "joint_hidden": HIDDEN,
            "num_prompts": 128,
            "initialize_prompt_feature": True,
            "prompt_dictionary": prompts | {"auto": AUTO_PROMPT_ID},
        },
        "tokenizer": {"dir": str(tokenizer_directory), "type": "bpe"},
        "preprocessor": preprocessor_config(),
        "encoder": _encoder_config(),
        "decoder": _decoder_config(),
        "joint": _joint_config(),
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": MAX_SYMBOLS}},
        "loss": {"loss_name": "default"},
        "optim": {"name": "adamw", "lr": 2e-3},
    }


def preprocessor_config() -> dict[str, Any]:
    """The log-mel front end of the real checkpoint."""
    return {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16_000, "normalize": "NA", "window_size": 0.025, "window_stride": 0.01, "window": "hann",
        "features": MEL_BINS, "n_fft": 512, "log": True, "frame_splicing": 1, "dither": 1e-5, "pad_to": 0,
    }  # fmt: skip


def _encoder_config() -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": MEL_BINS, "feat_out": -1, "n_layers": ENCODER_LAYERS, "d_model": ENCODER_WIDTH, "n_heads": 4,
        "use_bias": False, "ff_expansion_factor": 4, "self_attention_model": "rel_pos", "xscaling": False,
        "untie_biases": True, "pos_emb_max_len": 5000,
        "subsampling": "dw_striding", "subsampling_factor": 8, "causal_downsampling": True,
        "subsampling_conv_channels": SUBSAMPLING_CHANNELS,
        "att_context_size": [[LEFT_CONTEXT, lookahead] for lookahead in LOOKAHEADS],
        "att_context_style": "chunked_limited",
        "conv_kernel_size": 9, "conv_norm_type": "layer_norm", "conv_context_size": "causal",
        "dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_emb": 0.0, "dropout_att": 0.0,
    }  # fmt: skip


def _decoder_config() -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "normalization_mode": None, "random_state_sampling": False, "blank_as_pad": True,
        "prednet": {"pred_hidden": HIDDEN, "pred_rnn_layers": 2, "t_max": None, "dropout": 0.0},
    }  # fmt: skip


def _joint_config() -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.RNNTJoint",
        "log_softmax": None, "preserve_memory": False, "fuse_loss_wer": False, "fused_batch_size": -1,
        "jointnet": {
            "joint_hidden": HIDDEN, "activation": "relu", "dropout": 0.0,
            "encoder_hidden": ENCODER_WIDTH, "pred_hidden": HIDDEN,
        },
    }  # fmt: skip


def build_model(tokenizer_directory: Path, seed: int) -> Any:
    """A freshly initialized model."""
    import torch
    from nemo.collections.asr.models.rnnt_bpe_models_prompt import EncDecRNNTBPEModelWithPrompt
    from omegaconf import OmegaConf

    torch.manual_seed(seed)
    return EncDecRNNTBPEModelWithPrompt(cfg=OmegaConf.create(model_config(tokenizer_directory)))


def standardize_subsampling(pre_encode: Any, windows: torch.Tensor) -> None:
    """Rescale fresh convolutions so that on `windows` [W, frames, 128] every channel has mean 0 and variance 1.

    The log-mel is not normalized, about -11 with a deviation of 4. Left alone, the subsampled frames are nearly the
    same at all times, which the encoder's normalization preserves, and training soon makes it deaf.
    """
    import torch

    with torch.no_grad():
        hidden = windows[:, None]
        for layer in pre_encode.conv:
            hidden = layer(hidden)
            if isinstance(layer, torch.nn.Conv2d):
                hidden = _standardize(layer, hidden, (0, 2, 3))
        _standardize(pre_encode.out, pre_encode.out(hidden.transpose(1, 2).flatten(2)), (0, 1))


def _standardize(layer: Any, output: torch.Tensor, dimensions: tuple[int, ...]) -> torch.Tensor:
    """Change weight and bias of `layer` so that its `output` is standardized over `dimensions`; returns that."""
    mean = output.mean(dimensions)
    deviation = output.std(dimensions).clamp(min=1e-3)
    layer.weight /= deviation.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.bias.copy_((layer.bias - mean) / deviation)
    shape = [-1 if dimension not in dimensions else 1 for dimension in range(output.dim())]
    return (output - mean.view(shape)) / deviation.view(shape)
