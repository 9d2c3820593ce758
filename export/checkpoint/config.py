"""What a checkpoint's configuration says about its model, and which models can be exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from export.checkpoint.archive import WEIGHTS
from export.digest import FileState, file_state, files_sha256
from export.errors import UserError
from export.geometry import Geometry, chunk_frames_for, dropped_frames
from export.languages import DEFAULT_LANGUAGE, LANGUAGE_TAG

RANDOM_WEIGHTS = "random_weights"
"""Key of the configuration by which a checkpoint says that it was never trained."""

_ELSEWHERE = (
    ("encoder", "reduction", None),
    ("encoder", "conv_context_style", "regular"),
    ("decoder", "normalization_mode", None),
)
"""What our modules do not have, and no tensor tells of."""

_MODEL_CLASSES = ("EncDecRNNTBPEModelWithPrompt", "EncDecRNNTBPEModel")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says about its model, before any weight is loaded.

    Attributes:
        path: the ``.nemo`` file, or the folder as Transformers lays it out.
        source: what the user asked for: a path, a Hub id, or ``demo``.
        config: as NeMo writes it, whatever the layout.
        vocabulary: the pieces in id order.
        name: of the model.
        opened: states of the files that hold the weights, from before anything was read of them.
        tokenizer: a ``.nemo`` file's: the configuration's key to the archive's member.
        members: a ``.nemo`` file's: bytes of every member, unpacked, by its path from the root.
        shards: a Transformers folder's files of weights, in order; a ``.nemo`` file holds its own.
        writer: version of Transformers that wrote the folder.
        config_sha256: a Transformers folder's: hash of configuration and vocabulary, which a ``.nemo`` file's own hash
            covers.
    """

    path: Path
    source: str
    config: dict[str, Any]
    vocabulary: tuple[str, ...]
    name: str
    opened: tuple[FileState, ...]
    tokenizer: dict[str, str] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)
    shards: tuple[Path, ...] = ()
    writer: str = ""
    config_sha256: str | None = None

    @property
    def model_class(self) -> str:
        """Name of the NeMo class that the configuration targets."""
        return str(self.config["target"]).rsplit(".", 1)[-1]

    @cached_property
    def sha256(self) -> str:
        """Hash of the ``.nemo`` file, or of a folder's files of weights in order: the identity that bundles record.

        Raises:
            UserError: see :meth:`require_unchanged`.
        """
        self.require_unchanged()
        found = files_sha256(self.weight_files)
        self.require_unchanged()
        return found

    def require_unchanged(self) -> None:
        """Refuse a checkpoint that is no longer the one that was opened: what was read of it may be of two.

        Raises:
            UserError: naming the file that was written or replaced.
        """
        for file, state in zip(self.weight_files, self.opened, strict=True):
            try:
                changed = file_state(file) != state
            except OSError:
                changed = True
            if changed:
                raise UserError(f"{file}: was changed or replaced while it was in use; run again when it is whole")

    @property
    def identity(self) -> tuple[str | None, str | None]:
        """What no result may outlive; :func:`identity` of what bundles record."""
        return self.sha256, self.config_sha256

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the weights, in order."""
        return self.shards or (self.path,)

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that hold the weights."""
        return sum(file.stat().st_size for file in self.weight_files)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights, unpacked where a ``.nemo`` file is compressed."""
        return self.members.get(WEIGHTS) or self.size_bytes

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
                drop_extra_pre_encoded=dropped_frames(pre_encode_cache, subsampling),
                hop_samples=self.hop_samples,
                sample_rate=self.sample_rate,
            ),
            warnings + chunk_warnings,
        )


def identity(facts: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """:attr:`Checkpoint.identity` by what a bundle records of its checkpoint."""
    return facts.get("sha256"), facts.get("config_sha256")


def check_supported(path: Path, config: dict[str, Any]) -> None:
    """Collect everything about the configuration that the exporter cannot handle, and raise once.

    Raises:
        UserError: naming every such key.
    """
    target = str(config.get("target", "")).rsplit(".", 1)[-1]
    if target not in _MODEL_CLASSES:
        raise UserError(
            f"{path}: is a {target or 'model of unknown class'}; only cache-aware RNN-T models "
            f"({' or '.join(_MODEL_CLASSES)}) can be exported"
        )
    encoder = _section(config, "encoder")
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
    problems += [
        f"{section}.{key} is {_section(config, section)[key]!r}, supported is {value!r}"
        for section, key, value in _ELSEWHERE
        if _section(config, section).get(key) not in (None, value)
    ]
    preprocessor = _section(config, "preprocessor")
    # The clients cut audio by 10 ms a frame, and the second generation computes its own windows of 25 ms.
    problems += [
        f"preprocessor.{key} is {preprocessor.get(key)!r}, supported is {seconds:g} s"
        for key, seconds in (("window_stride", 0.01), ("window_size", 0.025))
        if preprocessor.get(key) != seconds
    ]
    if preprocessor.get("normalize") not in ("NA", None, "None", False):
        problems.append("preprocessor.normalize is not 'NA': per-utterance statistics cannot be streamed")
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}; use a cache-aware streaming FastConformer-RNNT checkpoint")


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}
