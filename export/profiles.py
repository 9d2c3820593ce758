"""Named settings of a folder: how it cuts audio and what its attention cache holds.

``published`` is what existing clients were written for. The others are latency tiers: chunks as long as their name
says, the longest lookahead that the checkpoint was trained with and that fits, and the faster step of the ``kv`` cache.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from export.errors import UserError
from export.geometry import DEFAULT_CHUNK_MS

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint

GraphOracle = Literal["nemo", "torch"]
"""What the graphs are compared with: NeMo, or the PyTorch modules that they are traced from."""

CUSTOM = "custom"
"""What a folder says whose settings are no profile's."""


@dataclass(frozen=True)
class Profile:
    """A profile as it is offered; ``lookahead`` None stands for the longest trained one whose groups fill the chunk."""

    name: str
    chunk_ms: int
    lookahead: int | None
    cache: str

    def lookahead_for(self, checkpoint: Checkpoint) -> int:
        """The profile's lookahead R for a checkpoint, in encoder frames.

        Raises:
            UserError: the checkpoint was trained with none that fits the chunk.
        """
        if self.lookahead is not None:
            return self.lookahead
        frames = round(self.chunk_ms / checkpoint.frame_ms)
        trained = [right for _, right in checkpoint.att_context_sizes]
        fitting = [right for right in trained if frames % (right + 1) == 0]
        if not fitting:
            raise UserError(
                f"--profile {self.name}: {checkpoint.path} was trained with lookahead {sorted(trained)}, none of which "
                f"fills {self.chunk_ms} ms; use --lookahead and --chunk-ms instead"
            )
        return max(fitting)


_TIERS_MS = (80, 160, 320, 560, 1120)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("published", DEFAULT_CHUNK_MS, 0, "channel"),
        *(Profile(f"{chunk}ms", chunk, None, "kv") for chunk in _TIERS_MS),
    )
}


@dataclass(frozen=True)
class Settings:
    """What an export needs to know beside its checkpoint; see :func:`export.pipeline.export_checkpoint`."""

    lookahead: int = 0
    chunk_ms: int | None = None
    cache: str = "channel"
    encoder: str = "rewritten"
    force_lookahead: bool = False
    languages: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    oracle: GraphOracle | None = None

    def arguments(self) -> list[str]:
        """What differs from the defaults, as arguments of ``nemotron-ov export``."""
        found: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                found += [f"--{field.name.replace('_', '-')}", *([] if value is True else [text])]
        return found


@dataclass(frozen=True)
class Asked:
    """What a user asks of an export: a profile, or single settings over the published default; None says nothing."""

    profile: str | None = None
    lookahead: int | None = None
    chunk_ms: int | None = None
    cache: str | None = None
    encoder: str = "rewritten"
    force_lookahead: bool = False
    languages: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    oracle: GraphOracle | None = None

    def settings(self, checkpoint: Checkpoint) -> Settings:
        """What that means for a checkpoint.

        Raises:
            UserError: an unknown profile, or one beside single settings.
        """
        others = (self.encoder, self.force_lookahead, self.languages, self.scripts, self.oracle)
        if self.profile is None:
            return Settings(self.lookahead or 0, self.chunk_ms, self.cache or "channel", *others)
        if self.profile not in PROFILES:
            raise UserError(f"--profile {self.profile}: no such profile; choose one of {', '.join(PROFILES)}")
        single = {"--lookahead": self.lookahead, "--chunk-ms": self.chunk_ms, "--cache": self.cache}
        extra = [name for name, value in single.items() if value is not None]
        if extra:
            raise UserError(
                f"--profile {self.profile} settles {', '.join(extra)}; leave them out, or leave --profile out"
            )
        chosen = PROFILES[self.profile]
        return Settings(chosen.lookahead_for(checkpoint), chosen.chunk_ms, chosen.cache, *others)


def tier_warnings(checkpoint: Checkpoint, lookahead: int, chunk_ms: float, cache: str) -> list[str]:
    """What a latency tier should say of itself: that its chunk waits for frames which nothing looks ahead to."""
    profile = PROFILES.get(profile_name(checkpoint, lookahead, chunk_ms, cache))
    frames = round(chunk_ms / checkpoint.frame_ms)
    if profile is None or profile.lookahead is not None or lookahead + 1 == frames:
        return []
    trained = sorted(right for _, right in checkpoint.att_context_sizes)
    return [
        f"profile {profile.name}: the checkpoint was trained with lookahead {trained} and not {frames - 1}, so its "
        f"chunks of {frames} frames have lookahead {lookahead}; --lookahead {frames - 1} --chunk-ms {chunk_ms:g} "
        f"--cache {cache} --force-lookahead exports the untrained one"
    ]


def profile_name(checkpoint: Checkpoint, lookahead: int, chunk_ms: float, cache: str) -> str:
    """The profile that has these settings for a checkpoint, or :data:`CUSTOM`."""
    for profile in PROFILES.values():
        if (profile.chunk_ms, profile.cache) == (chunk_ms, cache):
            try:
                if profile.lookahead_for(checkpoint) == lookahead:
                    return profile.name
            except UserError:
                continue
    return CUSTOM
