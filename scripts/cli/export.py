"""``export``: a checkpoint to one FP32 folder."""

from __future__ import annotations

from typing import Any

from scripts.cli import options
from scripts.cli.result import Result, facts_table, megabytes, verb


@verb
def export(
    checkpoint: options.Source,
    directory: options.Folder,
    profile: options.Profile = None,
    lookahead: options.OptionalLookahead = None,
    chunk_ms: options.ChunkMs = None,
    cache: options.CacheOption = None,
    encoder: options.EncoderOption = options.Encoder.rewritten,
    languages: options.Languages = None,
    scripts: options.Scripts = None,
    oracle: options.OracleOption = None,
    force: options.Force = False,
    force_lookahead: options.ForceLookahead = False,
    revision: options.Revision = None,
    checkpoint_format: options.CheckpointFormatOption = None,
    as_json: options.Json = False,
    graph: options.OldGraph = None,  # noqa: ARG001  # refused by its callback
) -> Result:
    """Export a checkpoint to an FP32 folder, each graph checked against PyTorch before it is written."""
    from export.bundle import BUNDLE
    from export.checkpoint import open_checkpoint
    from export.folders import refuse_existing
    from export.host import peak_rss_mb
    from export.pipeline import export_checkpoint

    refuse_existing(directory, kind=BUNDLE, force=force)
    source = open_checkpoint(checkpoint, revision, options.layout_of(checkpoint_format))
    asked = options.asked(profile, lookahead, chunk_ms, cache, encoder, force_lookahead, languages, scripts, oracle)
    bundle = export_checkpoint(source, directory, **vars(asked.settings(source)), force=force)
    metadata = bundle.metadata
    data: dict[str, Any] = {
        "folder": str(bundle.path),
        "bytes": bundle.size_bytes,
        "profile": metadata.profile,
        "encoder": metadata.encoder,
        "cache": metadata.cache,
        "att_context_size": metadata.att_context_size,
        "chunk_ms": metadata.chunk_ms,
        "pieces": metadata.vocab_size,
        "parity": metadata.parity,
        "warnings": metadata.warnings,
        "peak_rss_mb": peak_rss_mb(),
    }
    facts = {
        "size": megabytes(bundle.size_bytes),
        "profile": metadata.profile,
        "encoder": metadata.encoder,
        "cache": metadata.cache,
        "attention context": metadata.att_context_size,
        "chunk": f"{metadata.chunk_ms:g} ms",
        "vocabulary": f"{metadata.vocab_size} pieces",
        "largest difference from PyTorch": ", ".join(
            f"{name} {max(output['relative'] for output in result['outputs'].values()):.1g}"
            for name, result in metadata.parity.items()
        )
        + " of the output's scale",
        "warnings": "; ".join(metadata.warnings) or "none",
    }
    return Result(data, lambda: [facts_table(str(bundle.path), facts)], as_json)
