"""The repository's page: rendered from facts, and checked against them after somebody edited it.

What a page *claims* are its lines with a digit or a word of judgement, and the header's results, licence and base
model. Such a line is supported where the page that today's reports give has the same line under the same heading, and
a table's row where the sentence above the table and the table's head are the same too. Numbers in words are not found.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category

from export.errors import UserError
from scripts.publish.facts import Facts
from scripts.publish.page import Page
from scripts.publish.results import eval_results
from scripts.publish.sections import sections
from scripts.publish.table import cell

if TYPE_CHECKING:
    import jinja2

TEMPLATE = Path(__file__).with_name("card.md.jinja")


def render_card(facts: Facts, page: Page) -> str:
    """The page as Markdown with its YAML header.

    Raises:
        UserError: ``--base-model`` for weights that are not a model's.
    """
    from huggingface_hub import ModelCard

    if page.base_model and facts.origin.kind != "model":
        raise UserError(f"--base-model {page.base_model}: {facts.root} holds {facts.origin.kind} weights; leave it out")
    text = _template().render(header=_header(facts, page), **sections(facts, page))
    return str(ModelCard(re.sub(r"\n{3,}", "\n\n", text)))


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # Markdown
    )
    environment.filters["cell"] = cell
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _header(facts: Facts, page: Page) -> str:
    """The YAML header."""
    from huggingface_hub import ModelCardData

    results = eval_results(facts)
    base = page.base(facts)
    more: dict[str, Any] = {"base_model_relation": "quantized"} if base else {}
    data = ModelCardData(
        license=page.licence_of(facts),
        language=facts.languages or None,
        library_name="openvino",
        pipeline_tag="automatic-speech-recognition",
        base_model=base,
        tags=["openvino", "nemotron-ov", "streaming-asr", "rnnt", "fastconformer", *(f.name for f in facts.folders)],
        model_name=facts.origin.name if results else None,
        eval_results=results or None,
        **more,
    )
    return data.to_yaml()


_JUDGEMENT = re.compile(
    r"\b(accurate|best|equals?|fast(er|est)?|identical|lossless|match(es)?|measured|passe[sd]|proven|tested|verified)\b",
    re.IGNORECASE,
)
_NAME = r"`(?!.*?(?:WER|CER|RTF))[A-Za-z_/][\w/:@-]*(?:\.[A-Za-z_]\w*)*`"
_NO_CLAIM = re.compile(rf"(?<=\])\(https?://[^\s)]+\)|{_NAME}|\b\d{{4}}-\d\d-\d\d\b|^\s*\d+\.\s", re.ASCII)
"""Where links lead, names in code, dates, and the numbers of lists."""

_COMMENT = re.compile(r"<!--.*?(-->|\Z)", re.DOTALL)


def unsupported(text: str, facts: Facts, page: Page) -> list[str]:
    """What a page claims that no report about exactly these files supports, each with its line; empty where nothing.

    Args:
        text: the page.
        facts: today's.
        page: as it would be rendered.

    Raises:
        UserError: its header is no YAML.
    """
    rendered = render_card(facts, page)
    known = {(heading, line) for _, heading, line in _lines(rendered)}
    problems = _header_problems(text, rendered)
    for number, heading, line in _lines(text):
        if (heading, line) not in known and _claims(heading, line):
            problems.append(f"line {number}: {line}")
    return problems + _missing_notice(text, rendered)


def _missing_notice(text: str, rendered: str) -> list[str]:
    """What must be seen first of all: title and notice of a page that is not a model's, outside of comments."""
    first = [found[1:] for found in _lines(rendered)][:2]
    shown = _COMMENT.sub("", text) if text.startswith("---\n") else ""
    (_, title), (_, notice) = first
    if not notice.startswith("> **") or [found[1:] for found in _lines(shown)][:2] == first:
        return []
    return [f"missing: {notice} (below the title, {title!r})"]


def _claims(heading: str, line: str) -> bool:
    """Whether a line says what must be measured."""
    shown = html.unescape(line) if heading == _CODE else _NO_CLAIM.sub("", html.unescape(line))
    return any(category(letter) in _DIGITS for letter in shown) or _JUDGEMENT.search(shown) is not None


_DIGITS = ("Nd", "Nl", "No")
"""Unicode's categories of digits, numerals and fractions."""


_CODE = "```"
"""Instead of a heading: the line is in a block of code."""


def _lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Lines of prose and tables: number, where, and text with single spaces; no header.

    Where: the heading above; of a table's row also the sentence above the table, and the table's head.
    """
    heading, caption, head, fenced, header = "", "", "", False, text.startswith("---\n")
    for number, line in enumerate(text.splitlines(), 1):
        if header:
            header = number == 1 or line != "---"
            continue
        words = " ".join(line.split())
        if words.startswith(_CODE):
            fenced = not fenced
        elif words:
            if fenced:
                yield number, _CODE, words
            elif words.startswith("|"):
                head = head or words
                yield number, "\n".join((heading, caption, head)), words
            else:
                heading = words if words.startswith("#") else heading
                caption, head = words, ""
                yield number, heading, words
        else:
            head = ""


def _header_problems(text: str, rendered: str) -> list[str]:
    """What the header claims and the reports do not say: results, languages, base model, licence."""
    import yaml

    try:
        edited, known = _header_of(text), _header_of(rendered)
        results = sorted(_results(edited) - _results(known))
    except (ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the card's header cannot be read ({str(error).splitlines()[0]}); correct it") from error
    problems = ["header: " + ": ".join(result) for result in results]
    languages = edited.get("language") or []
    listed = languages if isinstance(languages, list) else [languages]
    problems += [f"header: language {each}" for each in listed if each not in (known.get("language") or [])]
    for key in ("base_model", "base_model_relation", "license", "pipeline_tag", "library_name"):
        if edited.get(key) != known.get(key):
            problems.append(f"header: {key} {edited.get(key)!r} is not {known.get(key)!r}")
    return problems


def _results(header: dict[str, Any]) -> set[tuple[str, ...]]:
    """The header's results: model, data set and its configuration, metric, its name, value."""
    return {
        (
            str(model.get("name")),
            *(str(result["dataset"].get(key)) for key in ("type", "name", "config")),
            *(str(metric.get(key)) for key in ("type", "name")),
            str(metric["value"]),
        )
        for model in header.get("model-index") or []
        for result in model["results"]
        for metric in result["metrics"]
    }


def _header_of(text: str) -> dict[str, Any]:
    from huggingface_hub import ModelCard

    header: dict[str, Any] = ModelCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    return header
