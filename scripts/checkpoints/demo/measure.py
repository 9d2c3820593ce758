"""Measure a demo checkpoint on its evaluation set with NeMo's own cache-aware streaming, and offline.

Run it as ``python -m scripts.checkpoints.demo.measure``; it prints the table of ``export/demo/README.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from export.demo import CHECKPOINT, MANIFEST
from export.progress import task
from scripts.checkpoints.demo.corpus import LANGUAGES

if TYPE_CHECKING:
    from verify.data.manifest import Utterance

LOOKAHEADS = (13, 6, 3, 0)
AUTO = "auto"


def measure_streaming(
    checkpoint_path: Path, manifest: Path, lookaheads: Iterable[int] = LOOKAHEADS
) -> list[dict[str, float | str]]:
    """Error rates per language, in per cent, of NeMo's streaming: one row for each lookahead and kind of prompt."""
    from export.checkpoint import open_checkpoint
    from export.checkpoint.nemo import load_model
    from verify.data.manifest import load_utterance, read_manifest
    from verify.references.nemo import NemoStreaming

    checkpoint = open_checkpoint(checkpoint_path)
    model = load_model(checkpoint)
    utterances = read_manifest(manifest)
    rows = []
    for lookahead in lookaheads:
        reference = NemoStreaming(checkpoint, lookahead, model)
        for prompt in (AUTO, "forced") if lookahead == max(LOOKAHEADS) else (AUTO,):
            recognized = []
            with task(f"streaming, lookahead {lookahead}, {prompt} prompt", len(utterances)) as progress:
                for utterance in utterances:
                    audio = load_utterance(utterance, checkpoint.sample_rate)
                    language = AUTO if prompt == AUTO else utterance.target_lang
                    transcript = reference.transcribe(audio, language)
                    recognized.append((transcript.text, transcript.language))
                    progress.advance()
            rows.append(_row(f"lookahead {lookahead}, {prompt}", utterances, recognized))
    return rows


def measure_offline(checkpoint_path: Path, manifest: Path, lookahead: int = LOOKAHEADS[0]) -> dict[str, float | str]:
    """The same row for NeMo's offline recognition, the whole recording at once."""
    import torch

    from export.checkpoint import open_checkpoint
    from export.checkpoint.nemo import load_model
    from verify.data.manifest import load_utterance, read_manifest
    from verify.runtimes.transcript import detokenize

    torch.set_num_threads(1)  # its operations are too short to be shared out
    checkpoint = open_checkpoint(checkpoint_path)
    model: Any = load_model(checkpoint)
    model.encoder.set_default_att_context_size([checkpoint.att_context_sizes[0][0], lookahead])
    prompt = torch.tensor([checkpoint.default_prompt_id])
    utterances = read_manifest(manifest)
    recognized = []
    with torch.inference_mode(), task("offline, auto prompt", len(utterances)) as progress:
        for utterance in utterances:
            audio = torch.from_numpy(load_utterance(utterance, checkpoint.sample_rate))[None]
            encoded, length = model.forward(
                input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]]), prompt_indices=prompt
            )
            (hypothesis,) = model.decoding.rnnt_decoder_predictions_tensor(encoded, length, return_hypotheses=True)
            tokens = [int(token) for token in hypothesis.y_sequence]
            recognized.append(detokenize(tokens, checkpoint.vocabulary, checkpoint.language_tag_ids))
            progress.advance()
    return _row(f"offline, lookahead {lookahead}, {AUTO}", utterances, recognized)


def _row(name: str, utterances: list[Utterance], recognized: list[tuple[str, str | None]]) -> dict[str, float | str]:
    """Error rate per language, of all of them together, and the share of right language tags, in per cent."""
    from verify.scoring.rates import metric_for, score_text, total

    row: dict[str, float | str] = {"run": name}
    everything = []
    for language in LANGUAGES:
        scores = [
            score_text(utterance.text, text, metric_for(language.tag))
            for utterance, (text, _) in zip(utterances, recognized, strict=True)
            if utterance.target_lang == language.tag
        ]
        row[language.tag] = total(scores).rate
        everything += scores
    row["all"] = total(everything).rate
    right = [tag == utterance.target_lang for utterance, (_, tag) in zip(utterances, recognized, strict=True)]
    row["language right"] = 100.0 * sum(right) / len(right)
    return row


def markdown(rows: list[dict[str, float | str]]) -> str:
    """`rows` as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join(["---"] + ["---:"] * (len(names) - 1)) + " |"]
    for row in rows:
        cells = [value if isinstance(value, str) else f"{value:.1f}" for value in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    checkpoint: Annotated[Path, typer.Argument(help="The .nemo file.")] = CHECKPOINT,
    manifest: Annotated[Path, typer.Option(help="NeMo manifest of the recordings.")] = MANIFEST,
    lookahead: Annotated[list[int], typer.Option(help="Encoder frames of 80 ms; may be repeated.")] = list(LOOKAHEADS),  # noqa: B006
) -> None:
    """Print WER (CER for Japanese) per language, without case and punctuation, and language accuracy."""
    rows = measure_streaming(checkpoint, manifest, lookahead)
    typer.echo(markdown([*rows, measure_offline(checkpoint, manifest)]))


if __name__ == "__main__":
    typer.run(main)
