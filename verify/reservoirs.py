"""Which of a stream's samples are kept: seeded reservoirs on disk, so that memory never holds more than one sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quantize.samples import CALIBRATED, Inputs, Origin

Kept = tuple[Path, Origin]
"""A file with one sample, and where that was met."""

SMALL_GRAPHS = 4
"""Decoder and joint samples for each encoder sample: they are kilobytes, and a step calls them often."""

FIRST_EVERY = 5
"""One kept encoder step in five begins a stream, with empty caches: about what utterances of five seconds hold."""


class Reservoir:
    """A uniform choice of ``capacity`` of the samples offered, each in a file (J. S. Vitter's algorithm R, 1985)."""

    def __init__(self, folder: Path, capacity: int, generator: np.random.Generator) -> None:
        folder.mkdir(parents=True)
        self._folder, self._capacity, self._generator = folder, capacity, generator
        self._seen = 0
        self._origins: dict[int, Origin] = {}

    def offer(self, inputs: Inputs, origin: Origin) -> None:
        """A sample that may be kept; it is copied only if it is."""
        place = self._seen if self._seen < self._capacity else int(self._generator.integers(self._seen + 1))
        self._seen += 1
        if place < self._capacity:
            np.savez(self._folder / f"{place}.npz", **inputs)  # type: ignore[arg-type]
            self._origins[place] = origin

    def kept(self) -> list[Kept]:
        """What was kept, in random order."""
        places = self._generator.permutation(len(self._origins))
        return [(self._folder / f"{place}.npz", self._origins[int(place)]) for place in places]


class Reservoirs:
    """Reservoirs for every graph and language; the encoder's first steps have their own."""

    def __init__(self, folder: Path, languages: Sequence[str], samples: int, seed: int) -> None:
        self._languages = languages
        self._reservoirs: dict[tuple[str, str, bool], Reservoir] = {}
        for graph in CALIBRATED:
            total = samples if graph == "encoder" else SMALL_GRAPHS * samples
            for number, language in enumerate(languages):
                share = total // len(languages) + (number < total % len(languages))
                firsts = sum(map(_begins, range(number, number + share))) if graph == "encoder" else 0
                for first, capacity in ((True, firsts), (False, share - firsts)):
                    name = f"{graph}-{number}-{'first' if first else 'later'}"
                    self._reservoirs[graph, language, first] = Reservoir(folder / name, capacity, generator(seed, name))

    def offer(self, graph: str, inputs: Inputs, origin: Origin) -> None:
        """A sample that may be kept."""
        first = graph == "encoder" and origin.call == 0
        self._reservoirs[graph, origin.language, first].offer(inputs, origin)

    def ordered(self, graph: str) -> list[Kept]:
        """What was kept: languages in turn, a first step every :data:`FIRST_EVERY` samples of the encoder."""
        lines: list[list[Kept]] = []
        for number, language in enumerate(self._languages):
            firsts, laters = (self._reservoirs[graph, language, first].kept() for first in (True, False))
            line: list[Kept] = []
            while firsts or laters:
                source = firsts if graph == "encoder" and _begins(number + len(line)) else laters
                line.append((source or firsts or laters).pop())
            lines.append(line)
        longest = max(map(len, lines))
        return [line[place] for place in range(longest) for line in lines if place < len(line)]


def _begins(place: int) -> bool:
    """Whether the encoder sample of this place begins a stream; languages are shifted against each other."""
    return place % FIRST_EVERY == 0


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """Independent choices for every purpose of a seed."""
    digest = hashlib.sha256("/".join((str(seed), *purpose)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
