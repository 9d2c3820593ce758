"""A checkpoint as a folder in Transformers' layout, as NVIDIA publishes it beside the ``.nemo`` file."""

from __future__ import annotations

from pathlib import Path

from export.checkpoint import Checkpoint
from export.checkpoint.archive import WEIGHTS
from export.checkpoint.transformers import load_transformers
from export.checkpoint.weights import unpacked


def write_transformers_folder(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write configuration, weights and processor, loadable through ``AutoModelForRNNT`` and ``AutoProcessor``.

    Args:
        checkpoint: an opened ``.nemo`` file.
        folder: is made.
    """
    from transformers import Nemotron3_5AsrProcessor, NemotronAsrStreamingProcessor, ParakeetTokenizer
    from transformers.convert_slow_tokenizer import ParakeetConverter

    tags = [checkpoint.vocabulary[each] for each in checkpoint.language_tag_ids]
    model, extractor = load_transformers(checkpoint)
    with unpacked(checkpoint, {WEIGHTS, *checkpoint.tokenizer.values()}) as archive:
        tokenizer = ParakeetTokenizer(
            tokenizer_object=ParakeetConverter(str(archive / checkpoint.tokenizer["model_path"])).converted(),
            unk_token="<unk>",
            pad_token="<pad>",
            extra_special_tokens=tags,
            clean_up_tokenization_spaces=False,
        )
    tokenizer.add_tokens([*tags, "<blank>"], special_tokens=True)
    rights = [right for _, right in checkpoint.att_context_sizes]
    lookaheads = {"supported_num_lookahead_tokens": rights, "default_num_lookahead_tokens": rights[0]}
    if checkpoint.prompts is None:
        processor = NemotronAsrStreamingProcessor(extractor, tokenizer, **lookaheads)
    else:
        prompts = {"prompt_dictionary": checkpoint.prompts, "num_prompts": checkpoint.num_prompts}
        processor = Nemotron3_5AsrProcessor(extractor, tokenizer, decoder_type="rnnt", **lookaheads, **prompts)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
