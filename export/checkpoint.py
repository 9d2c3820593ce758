"""NeMo checkpoints: where they come from, what their configuration says, and the PyTorch model in them.

:func:`open_checkpoint` reads configuration and tokenizer straight from the ``.nemo`` archive, which takes
milliseconds and needs neither torch nor NeMo; :func:`load_model` restores the module.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from export.errors import UserError
from export.geometry import Geometry, chunk_frames_for

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecRNNTBPEModel

LANGUAGE_TAG = re.compile(r"<[a-z]{2,3}-[A-Za-z0-9]{2,4}>")
"""A vocabulary piece that names the language instead of being part of the text."""

DEFAULT_LANGUAGE = "auto"
"""The prompt that lets the model find the language itself."""

RANDOM_WEIGHTS = "random_weights"
"""Key of the configuration by which a checkpoint says that it was never trained."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_MODEL_CLASSES = ("EncDecRNNTBPEModelWithPrompt", "EncDecRNNTBPEModel")


@dataclass(frozen=True)
class Checkpoint:
    """What a ``.nemo`` file says about its model, before any weight is loaded."""

    path: Path
    source: str  # what the user asked for: a path, a Hub id, or "demo"
    config: dict[str, Any]
    vocabulary: tuple[str, ...]

    @property
    def model_class(self) -> str:
        """Name of the NeMo class that the configuration targets."""
        return str(self.config["target"]).rsplit(".", 1)[-1]

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole file; the identity that bundles record."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()

    @property
    def is_random(self) -> bool:
        """Whether the weights were never trained, so that logits nearly tie and tokens say nothing."""
        return bool(self.config.get(RANDOM_WEIGHTS, False))

    @property
    def encoder(self) -> dict[str, Any]:
        """The configuration's encoder section."""
        section: dict[str, Any] = self.config["encoder"]
        return section

    @property
    def sample_rate(self) -> int:
        """Audio sample rate in Hz."""
        return int(self.config["preprocessor"]["sample_rate"])

    @property
    def mel_features(self) -> int:
        """Mel bins."""
        return int(self.encoder["feat_in"])

    @property
    def hop_samples(self) -> int:
        """Samples between mel frames."""
        return round(float(self.config["preprocessor"]["window_stride"]) * self.sample_rate)

    @property
    def att_context_sizes(self) -> list[list[int]]:
        """Every ``[left, right]`` the encoder was trained with, the default first."""
        sizes = self.encoder["att_context_size"]
        return [list(map(int, size)) for size in (sizes if isinstance(sizes[0], list) else [sizes])]

    @property
    def blank_id(self) -> int:
        """Token id of blank: one past the last piece."""
        return len(self.vocabulary)

    @property
    def prompts(self) -> dict[str, int] | None:
        """Language to prompt row, or None where the model takes no prompt."""
        defaults = self.config.get("model_defaults") or {}
        if not defaults.get("initialize_prompt_feature", False):
            return None
        return {str(name): int(row) for name, row in (defaults.get("prompt_dictionary") or {}).items()}

    @property
    def num_prompts(self) -> int | None:
        """Rows of the prompt's one-hot code, or None where the model takes no prompt."""
        if self.prompts is None:
            return None
        return int(self.config["model_defaults"].get("num_prompts", 128))

    @property
    def default_prompt_id(self) -> int | None:
        """The prompt for unknown languages: ``auto`` where there is one, else the first row in use."""
        if not self.prompts:
            return None
        return self.prompts.get(DEFAULT_LANGUAGE, min(self.prompts.values()))

    @property
    def language_tag_ids(self) -> list[int]:
        """Ids of the vocabulary's language tags, ascending."""
        return [index for index, piece in enumerate(self.vocabulary) if LANGUAGE_TAG.fullmatch(piece)]

    @property
    def frame_ms(self) -> float:
        """Duration of one encoder frame."""
        return 1000.0 * int(self.encoder["subsampling_factor"]) * self.hop_samples / self.sample_rate

    def geometry(
        self, lookahead: int = 0, chunk_ms: int | None = None, *, force: bool = False
    ) -> tuple[Geometry, list[str]]:
        """The streaming step for a lookahead, and warnings for the bundle to carry.

        Args:
            lookahead: right context R in encoder frames.
            chunk_ms: new audio a step, or None for the default.
            force: allow a lookahead that the checkpoint was not trained with.

        Raises:
            UserError: untrained lookahead without ``force``, or a chunk that does not fit.
        """
        subsampling = int(self.encoder["subsampling_factor"])
        trained = {right: left for left, right in reversed(self.att_context_sizes)}
        warnings: list[str] = []
        if lookahead < 0:
            raise UserError(f"--lookahead {lookahead}: use 0 or more encoder frames")
        if lookahead not in trained:
            known = ", ".join(str(right) for right in sorted(trained))
            if not force:
                raise UserError(
                    f"{self.path}: not trained with lookahead {lookahead}; choose one of {known}, "
                    "or add --force-lookahead to export it all the same"
                )
            warnings.append(f"lookahead {lookahead} was forced; the checkpoint was trained with {known}")
        chunk_frames, chunk_warnings = chunk_frames_for(lookahead, self.frame_ms, chunk_ms)
        left = trained.get(lookahead, self.att_context_sizes[0][0])
        if left % (lookahead + 1):
            raise UserError(
                f"{self.path}: left context {left} is no multiple of lookahead {lookahead} + 1; "
                "choose a lookahead that divides it"
            )
        # Carried mel frames and dropped encoder frames as NeMo's setup_streaming_params derives them.
        pre_encode_cache = subsampling + 1
        return (
            Geometry(
                left_context=left,
                lookahead=lookahead,
                chunk_frames=chunk_frames,
                subsampling_factor=subsampling,
                pre_encode_cache=pre_encode_cache,
                drop_extra_pre_encoded=1 + (pre_encode_cache - 1) // subsampling,
                hop_samples=self.hop_samples,
                sample_rate=self.sample_rate,
            ),
            warnings + chunk_warnings,
        )


def resolve_checkpoint(source: str | None, revision: str | None = None) -> Path:
    """The local ``.nemo`` file for a path, a Hub id, the word ``demo``, or nothing (the embedded one).

    Raises:
        UserError: no such file, or the Hub cannot give it.
    """
    if source is None or source == "demo":
        from export import demo

        return demo.CHECKPOINT
    path = Path(source).expanduser()
    if path.exists():
        return path
    if _HUB_ID.fullmatch(source) and not source.endswith(".nemo"):
        return _download(source, revision)
    raise UserError(f"{source}: no such checkpoint; give a .nemo file, a Hugging Face id, or 'demo'")


def _download(repo_id: str, revision: str | None) -> Path:
    """Fetch the one ``.nemo`` file of a Hub repository through huggingface_hub's cache and token.

    Without a network, what an earlier download left in the cache is used.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(repo_id, revision=revision, allow_patterns=["*.nemo"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{repo_id}: cannot be fetched from the Hugging Face Hub ({reason}); check the id, --revision, "
            "the network and HF_TOKEN, or give a local .nemo file"
        ) from error
    files = sorted(snapshot.glob("*.nemo"))
    if len(files) != 1:
        raise UserError(f"{repo_id}: holds {len(files)} .nemo files, expected one; download it and give its path")
    return files[0]


def open_checkpoint(source: str | Path | None = None, revision: str | None = None) -> Checkpoint:
    """Read and check a checkpoint's configuration and vocabulary.

    Raises:
        UserError: not a ``.nemo`` file, truncated, or a model this toolkit cannot export.
    """
    path = resolve_checkpoint(None if source is None else str(source), revision)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a .nemo file; give the file inside it")
    if not path.exists():
        raise UserError(f"{path}: the embedded checkpoint is missing; restore it from the repository")
    config, tokenizer = _read_archive(path)
    _validate(path, config)
    return Checkpoint(path, str(source or "demo"), config, _vocabulary(path, tokenizer))


def _read_archive(path: Path) -> tuple[dict[str, Any], bytes]:
    """Configuration and SentencePiece model of a ``.nemo`` archive (tar, plain or compressed)."""
    members: dict[str, bytes] = {}
    weights = False
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                weights = weights or name.endswith(".ckpt")
                if name == "model_config.yaml" or name.endswith("tokenizer.model"):
                    file = archive.extractfile(member)
                    members[name] = file.read() if file else b""
                archive.members = []  # type: ignore[attr-defined]  # keeps memory flat on large archives
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a readable .nemo archive ({error}); download it again") from error
    if "model_config.yaml" not in members:
        raise UserError(f"{path}: holds no model_config.yaml, so it is no .nemo checkpoint; give a NeMo .nemo file")
    if not weights:
        raise UserError(f"{path}: holds no weights (model_weights.ckpt), so it is truncated; download it again")
    tokenizers = [data for name, data in members.items() if name.endswith("tokenizer.model")]
    config = yaml.safe_load(members["model_config.yaml"])
    if not isinstance(config, dict):
        raise UserError(f"{path}: its model_config.yaml is no mapping; the file is damaged, download it again")
    return config, tokenizers[0] if tokenizers else b""


def _validate(path: Path, config: dict[str, Any]) -> None:
    """Collect everything about the configuration that the exporter cannot handle, and raise once."""
    target = str(config.get("target", "")).rsplit(".", 1)[-1]
    if target not in _MODEL_CLASSES:
        raise UserError(
            f"{path}: is a {target or 'model of unknown class'}; only cache-aware RNN-T models "
            f"({' or '.join(_MODEL_CLASSES)}) can be exported"
        )
    encoder = config.get("encoder") or {}
    required = {
        "att_context_style": "chunked_limited",
        "self_attention_model": "rel_pos",
        "subsampling": "dw_striding",
        "causal_downsampling": True,
        "conv_context_size": "causal",
        "conv_norm_type": "layer_norm",
    }
    problems = [
        f"encoder.{key} is {encoder.get(key)!r}, supported is {value!r}"
        for key, value in required.items()
        if encoder.get(key) != value
    ]
    if (config.get("preprocessor") or {}).get("normalize") not in ("NA", None, "None", False):
        problems.append("preprocessor.normalize is not 'NA': per-utterance statistics cannot be streamed")
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}; use a cache-aware streaming FastConformer-RNNT checkpoint")


def _vocabulary(path: Path, tokenizer: bytes) -> tuple[str, ...]:
    """The pieces of the SentencePiece model, in id order."""
    from sentencepiece import SentencePieceProcessor

    message = f"{path}: its SentencePiece tokenizer is missing or damaged; download it again"
    if not tokenizer:
        raise UserError(message)
    try:
        pieces = SentencePieceProcessor(model_proto=tokenizer)
    except (RuntimeError, ValueError) as error:
        raise UserError(message) from error
    return tuple(pieces.id_to_piece(index) for index in range(pieces.get_piece_size()))


def load_model(checkpoint: Checkpoint) -> EncDecRNNTBPEModel:
    """Restore the NeMo model on the CPU in evaluation mode, FP32.

    Raises:
        UserError: NeMo cannot restore the file.
    """
    from export.nemo import restore

    return restore(checkpoint)
