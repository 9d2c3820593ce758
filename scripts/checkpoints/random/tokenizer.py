"""A SentencePiece model of any size whose pieces are made up, for checkpoints with random weights.

The pieces form a valid BPE: every piece longer than a character is the concatenation of two earlier ones, so that
text in the covered scripts can be encoded and any sequence of ids decodes. Language tags ``<xx-XX>`` are
user-defined symbols scattered among the ids, as in the multilingual model; a standalone ``▁`` occurs.
"""

from __future__ import annotations

import random
import string
from pathlib import Path

from export.checkpoint.pieces import sentencepiece_model

WORD_START = "▁"
TAG_IDS = {2947: "<en-US>", 9847: "<zh-CN>"}
"""Where the multilingual model of 13,087 pieces keeps these two tags."""

_TAG_NAMES = (
    "en-US en-GB es-ES es-US zh-CN fr-FR fr-CA de-DE ja-JP ru-RU pt-BR pt-PT ko-KR it-IT nl-NL pl-PL tr-TR "
    "uk-UA ro-RO el-GR cs-CZ hu-HU sv-SE da-DK fi-FI nb-NO nn-NO sk-SK hr-HR bg-BG lt-LT th-TH vi-VN hi-IN "
    "ar-AR he-IL et-EE lv-LV sl-SI"
)
TAGS = tuple(f"<{name}>" for name in _TAG_NAMES.split())
"""39 tags: the multilingual model has as many; which ones beyond the two above is made up."""

_LONGEST = 8  # characters of a made-up piece


def _range(first: int, last: int) -> list[str]:
    return [chr(code) for code in range(first, last + 1)]


def _scripts() -> list[list[str]]:
    """Characters by script, the most common first; digits and punctuation belong to the first."""
    latin = string.ascii_lowercase + ".,?!'-" + string.ascii_uppercase + string.digits
    return [
        list(latin),
        list("áàâäãåæçéèêëíîïñóôöõøœúùûüýßąćčďęěğıłńňőřśšťůűźžșțāēīōūģķļņ"),
        _range(0x0430, 0x044F) + _range(0x0410, 0x042F),
        _range(0x3041, 0x3093) + _range(0x30A1, 0x30F6),
        _range(0x03B1, 0x03C9),
        _range(0x4E00, 0x4E00 + 2500),
        _range(0xAC00, 0xAC00 + 600),
    ]


def make_pieces(count: int, tags: tuple[str, ...], seed: int) -> list[str]:
    """``count`` distinct pieces: ``<unk>`` first, ``tags`` at scattered ids, then characters and their merges.

    Args:
        count: vocabulary size without blank; at least 100 more than there are tags.
        tags: language tags to scatter; without any, the pieces are in basic Latin letters only.
        seed: of the choice of merges and of the tags' places.
    """
    generator = random.Random(seed)  # noqa: S311  # nothing secret
    text = _text_pieces(count - 1 - len(tags), _scripts() if tags else _scripts()[:1], generator)
    places = _tag_places(count, tags, generator)
    ordinary = iter(text)
    return ["<unk>"] + [places[index] if index in places else next(ordinary) for index in range(1, count)]


def _tag_places(count: int, tags: tuple[str, ...], generator: random.Random) -> dict[int, str]:
    """Id to tag, with the known ids where the vocabulary reaches that far."""
    fixed = {index: tag for index, tag in TAG_IDS.items() if tag in tags} if count > max(TAG_IDS) else {}
    free = [tag for tag in tags if tag not in fixed.values()]
    ids = generator.sample([index for index in range(1, count) if index not in fixed], len(free))
    return fixed | dict(zip(ids, free, strict=True))


def _text_pieces(count: int, scripts: list[list[str]], generator: random.Random) -> list[str]:
    """Merges in the order they are learned, then single characters, as SentencePiece orders them."""
    single: list[list[str]] = []
    room = max(60, int(count * 0.4))
    for script in scripts:
        single.append(script[: max(0, room - 1 - sum(map(len, single)))])
    single = [script for script in single if script]
    pools = [list(script) for script in single]
    starts: list[list[str]] = [[WORD_START] for _ in pools]
    characters = [WORD_START] + [piece for script in single for piece in script]
    known = set(characters)
    merges: list[str] = []
    weights = [len(pool) for pool in pools]
    while len(merges) < count - len(characters):
        index = generator.choices(range(len(pools)), weights)[0]
        at_start = generator.random() < 0.5
        left = generator.choice(starts[index] if at_start else pools[index])
        piece = left + generator.choice(pools[index])
        if piece in known or len(piece) > _LONGEST:
            continue
        known.add(piece)
        merges.append(piece)
        (starts if at_start else pools)[index].append(piece)
    return merges + characters


def write(folder: Path, pieces: list[str], tags: tuple[str, ...]) -> None:
    """Write the files that NeMo keeps for a tokenizer: ``tokenizer.model``, ``tokenizer.vocab``, ``vocab.txt``."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces, tags))
    scored = "".join(f"{piece}\t{-rank}\n" for rank, piece in enumerate(pieces))
    (folder / "tokenizer.vocab").write_text(scored, encoding="utf-8")
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
