"""What may not be in a checkpoint: names that are not clear, what leads out, what grows, what would run."""

from __future__ import annotations

import errno
import gzip
import io
import os
import pickle
import shutil
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from export.checkpoint import Checkpoint, nemo, open_checkpoint
from export.checkpoint.archive import CONFIG, WEIGHTS, check_weights
from export.checkpoint.nemo import load_model
from export.checkpoint.weights import read_weights
from export.errors import UserError
from tests.helpers.archives import changed, demo_tokenizer, members, sentencepiece, special, tiny_config, write

OTHER = sentencepiece(["<unk>", "▁other", "s"])


def test_the_tiny_checkpoint_opens(tmp_path: Path) -> None:
    for mode in ("w", "w:gz"):
        checkpoint = open_checkpoint(write(tmp_path / "tiny.nemo", members(), mode))
        assert checkpoint.vocabulary[:2] == ("<unk>", "<en-US>")
        assert checkpoint.tokenizer == {"model_path": "a_tokenizer.model", "vocab_path": "a_vocab.txt"}


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("name", ["./00old_tokenizer.model", "./tokenizer.model", "sub/a_tokenizer.model"])
def test_the_tokenizer_is_the_one_that_the_configuration_names(tmp_path: Path, name: str, first: bool) -> None:
    other = [(name, OTHER)]
    contents = [*other, *members()] if first else [*members(), *other]
    assert open_checkpoint(write(tmp_path / "two.nemo", contents)).vocabulary[1] == "<en-US>"


@pytest.mark.parametrize("path", ["nemo:./b.model", "/home/trainer/tokenizers/b.model", "b.model"])
def test_a_tokenizers_path_is_read_as_nemo_reads_it(tmp_path: Path, path: str) -> None:
    config = tiny_config()
    config["tokenizer"]["model_path"] = path
    checkpoint = open_checkpoint(write(tmp_path / "b.nemo", [*members(config), ("./b.model", OTHER)]))
    assert checkpoint.vocabulary == ("<unk>", "▁other", "s")


def test_a_tokenizer_without_a_path_has_its_default_name(tmp_path: Path) -> None:
    config = tiny_config()
    del config["tokenizer"]["model_path"]
    checkpoint = open_checkpoint(write(tmp_path / "c.nemo", [*members(config), ("./tokenizer.model", OTHER)]))
    assert checkpoint.vocabulary == ("<unk>", "▁other", "s")


def test_resource_forks_of_a_mac_are_no_members(tmp_path: Path) -> None:
    forks: list[Any] = [(f"./._{name[2:]}", b"\0\5\26\7") for name, _ in members() if isinstance(name, str)]
    forks += [("__MACOSX/model_config.yaml", b"")]
    assert open_checkpoint(write(tmp_path / "mac.nemo", [*forks, *members()])).vocabulary[1] == "<en-US>"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((f"./{CONFIG}", b"a: 1"), f"holds {CONFIG} twice"),
        ((CONFIG, b"a: 1"), f"holds {CONFIG} twice"),
        (("a_tokenizer.model", OTHER), r"holds a_tokenizer\.model twice"),
        ((f"sub/{CONFIG}", b"a: 1"), f"holds {CONFIG} and sub/{CONFIG}, where NeMo reads {CONFIG} alone"),
        ((f"sub/{WEIGHTS}", b""), f"holds {WEIGHTS} and sub/{WEIGHTS}"),
        (("../outside", b""), r"holds '\.\./outside', which leads out of it"),
        (("a/../../outside", b""), "which leads out of it"),
        (("/etc/cron.d/run", b""), "holds '/etc/cron.d/run', which leads out of it"),
        ((special("link", tarfile.SYMTYPE, "/etc/passwd"), b""), "holds 'link', which is a link, a device or no plain"),
        ((special("hard", tarfile.LNKTYPE, "/etc/passwd"), b""), "holds 'hard', which is a link"),
        ((special("null", tarfile.CHRTYPE), b""), "holds 'null', which is a link, a device"),
        ((special("disk", tarfile.BLKTYPE), b""), "holds 'disk', which is a link, a device"),
        ((special("pipe", tarfile.FIFOTYPE), b""), "holds 'pipe', which is a link, a device"),
    ],
)
def test_members_that_no_checkpoint_has(tmp_path: Path, extra: Any, message: str) -> None:
    for contents in ([extra, *members()], [*members(), extra]):
        with pytest.raises(UserError, match=rf"bad\.nemo: .*{message}.*; do not use this file"):
            open_checkpoint(write(tmp_path / "bad.nemo", contents))


def test_a_configuration_in_a_folder_only_is_not_nemos(tmp_path: Path) -> None:
    contents = [(f"model/{str(name)[2:]}", data) for name, data in members()]
    with pytest.raises(UserError, match=f"holds model/{CONFIG}, where NeMo reads {CONFIG} alone"):
        open_checkpoint(write(tmp_path / "sub.nemo", contents))


def peak_of(opening: Callable[[], object], match: str) -> int:
    """Largest memory that Python took until the archive was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=match):
            opening()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_declared_size_beyond_reason(tmp_path: Path, packed: bool) -> None:
    info = tarfile.TarInfo("./filler.bin")
    info.size = 10**12
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    (tmp_path / "bomb.nemo").write_bytes(gzip.compress(data) if packed else data)
    assert peak_of(lambda: open_checkpoint(tmp_path / "bomb.nemo"), r"bomb\.nemo: ") < 20_000_000


def test_a_gzip_that_unpacks_to_a_thousand_times_its_size(tmp_path: Path) -> None:
    contents = [("./filler.bin", bytes(200_000_000)), *members()]
    bomb = write(tmp_path / "bomb.nemo", contents, "w:gz")
    assert bomb.stat().st_size < 500_000
    match = "unpacks to more than .* MB; do not use this file"
    assert peak_of(lambda: open_checkpoint(bomb), match) < 50_000_000


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    info = special("./header", kind)
    info.size = 40_000_000
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size) + bytes(1024)
    (tmp_path / "bomb.nemo").write_bytes(gzip.compress(data, 1))
    match = "has a header of 40,000,000 bytes; do not use"
    assert peak_of(lambda: open_checkpoint(tmp_path / "bomb.nemo"), match) < 30_000_000


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("./hole.bin")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10**13), "GNU.sparse.name": "hole.bin"}
    with pytest.raises(UserError, match=r"holds 'hole\.bin', which is a link, a device or no plain file"):
        open_checkpoint(write(tmp_path / "sparse.nemo", [(info, b"x"), *members()]))


def test_an_archive_of_another_kind(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip.nemo", "w") as archive:
        archive.writestr(CONFIG, "a: 1")
    with pytest.raises(UserError, match=r"zip\.nemo: not a readable \.nemo archive"):
        open_checkpoint(tmp_path / "zip.nemo")


def pickled(value: object) -> bytes:
    """An archive as ``torch.save`` writes it, of any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def with_weights(source: Path, target: Path, weights: Callable[[bytes], bytes]) -> Checkpoint:
    """A copy of a checkpoint with other weights."""
    contents = []
    with tarfile.open(source) as old:
        for member in old:
            file = old.extractfile(member)
            if file is not None:
                data = file.read()
                contents.append((member.name, weights(data) if member.name.endswith(WEIGHTS) else data))
    return open_checkpoint(write(target, contents))


@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_a_pickle_that_would_run_is_refused(
    tmp_path: Path, small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    proof = tmp_path / "it ran"
    padding = {"padding": "x" * 2_000_000}
    hostile = with_weights(small_checkpoint.path, tmp_path / "h.nemo", lambda _: pickled([padding, Runs(proof)]))
    with pytest.raises(UserError, match=r"h\.nemo: its model_weights\.ckpt asks for posix\.mkdir; do not use"):
        load_model(hostile)
    assert not proof.exists()


def test_weights_with_more_than_tensors_are_refused(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    extra = {"epoch": 3, "padding": "x" * 2_000_000}
    checkpoint = with_weights(small_checkpoint.path, tmp_path / "more.nemo", lambda _: pickled(extra))
    with pytest.raises(UserError, match="holds more than tensors; do not use this file"):
        load_model(checkpoint)


def flipped(data: bytes) -> bytes:
    content = bytearray(data)
    content[len(content) // 2] ^= 1
    return bytes(content)


def test_a_flipped_byte_in_the_weights_is_found(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    checkpoint = with_weights(small_checkpoint.path, tmp_path / "flipped.nemo", flipped)
    with pytest.raises(UserError, match=r"flipped\.nemo: its model_weights\.ckpt is damaged .*download it again"):
        load_model(checkpoint)


def check_file(file: Path) -> None:
    with file.open("rb") as weights:
        check_weights(Path("x.nemo"), weights)


def test_weights_that_are_no_zip_or_packed(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=r"x\.nemo: its model_weights\.ckpt is damaged \(File is not a zip file\)"):
        check_file(tmp_path / "old")
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(UserError, match=r"is packed as PyTorch does not; do not use this file"):
        check_file(tmp_path / "bomb")


def test_weights_whose_directory_lies_before_the_file_are_damaged(tmp_path: Path) -> None:
    data = bytearray(pickled({}))
    place = data.rindex(b"PK\x05\x06")
    data[place + 12 : place + 16] = (10**6).to_bytes(4, "little")  # the directory's size, beyond the file's
    (tmp_path / "weights").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.nemo: its model_weights\.ckpt is damaged .*; download it again"):
        check_file(tmp_path / "weights")


def test_weights_that_were_saved_without_checksums_load(tmp_path: Path) -> None:
    import torch

    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.zeros(3)}, tmp_path / "weights")
    finally:
        torch.serialization.set_crc32_options(True)
    check_file(tmp_path / "weights")


def test_weights_are_mapped_from_the_archive_itself(small_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """What is compressed, or of another byte order, is unpacked and gives the same."""
    import torch

    plain = read_weights(small_checkpoint)
    assert small_checkpoint.path.resolve() in mapped_files()
    with tarfile.open(small_checkpoint.path) as old:
        contents: list[Any] = [(each.name, file.read()) for each in old if (file := old.extractfile(each)) is not None]
    packed = read_weights(open_checkpoint(write(tmp_path / "packed.nemo", contents, "w:gz")))
    turned = read_weights(with_weights(small_checkpoint.path, tmp_path / "turned.nemo", big_endian))
    assert (tmp_path / "packed.nemo") not in mapped_files()
    for other in (packed, turned):
        assert list(other) == list(plain)
        assert all(torch.equal(other[name], tensor) for name, tensor in plain.items())


def mapped_files() -> set[Path]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return {Path(fields[5]) for line in lines if len(fields := line.split(maxsplit=5)) == 6}


def big_endian(data: bytes) -> bytes:
    """PyTorch's weights, of 4-byte numbers alone, as a machine of the other byte order writes them."""
    import numpy as np

    turned = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(turned, "w") as new:
        for record in old.infolist():
            content = old.read(record)
            if "/data/" in record.filename:
                content = np.frombuffer(content, "<u4").byteswap().tobytes()
            new.writestr(record.filename, b"big" if record.filename.endswith("byteorder") else content)
    return turned.getvalue()


REPLACEMENTS: dict[str, Callable[[Path, Path], object]] = {
    "renamed": lambda path, other: os.replace(other, path),
    "written": lambda path, other: path.write_bytes(other.read_bytes()),
    "gone": lambda path, _: path.unlink(),
}


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("use", [read_weights, lambda checkpoint: checkpoint.sha256], ids=["weights", "hash"])
def test_a_checkpoint_that_is_replaced_in_between_is_refused(
    tmp_path: Path, small_checkpoint: Checkpoint, use: Callable[[Checkpoint], object], replacement: str
) -> None:
    """Else a folder would hold the weights of one checkpoint under the hash, or with the pieces, of another."""
    path, other = (
        Path(shutil.copyfile(small_checkpoint.path, tmp_path / name)) for name in ("used.nemo", "other.nemo")
    )
    checkpoint = open_checkpoint(path)
    REPLACEMENTS[replacement](path, other)
    with pytest.raises(UserError, match=r"used\.nemo: was changed or replaced while it was in use; run again"):
        use(checkpoint)


def test_nothing_but_what_the_configuration_names_is_unpacked(
    tmp_path: Path, small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permuted tokenizer first in the archive, and NeMo's own pieces afterwards."""
    contents: list[Any] = [("./00old_tokenizer.model", demo_tokenizer())]
    with tarfile.open(small_checkpoint.path) as old:
        contents += [(member.name, file.read()) for member in old if (file := old.extractfile(member)) is not None]
    checkpoint = open_checkpoint(write(tmp_path / "two.nemo", contents))
    assert checkpoint.vocabulary == small_checkpoint.vocabulary
    model = load_model(checkpoint)
    size = model.tokenizer.vocab_size
    assert tuple(model.tokenizer.ids_to_tokens(list(range(size)))) == checkpoint.vocabulary


def test_debian_12s_python_restores_too(small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """NeMo's own unpacking needs ``tarfile``'s filters, which Python 3.11.2 does not have; ours does not."""

    def extract(self: object, member: object, path: str = "", set_attrs: bool = True) -> None:
        raise AssertionError("unpacked by tarfile")

    monkeypatch.setattr(tarfile.TarFile, "extract", extract)
    monkeypatch.delattr(tarfile, "data_filter")
    assert load_model(small_checkpoint).encoder.d_model == 64


def set_in(*keys: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        section = config
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value

    return change


def without(*keys: str) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        section = config
        for key in keys[:-1]:
            section = section[key]
        del section[keys[-1]]

    return change


@pytest.mark.parametrize("text", ["${preprocessor.features}", "${model.preprocessor.features}", "${a.b}"])
def test_interpolations_are_resolved(tmp_path: Path, text: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["encoder"]["feat_in"] = text
        config["a"] = {"b": "${preprocessor.features}", "c": "x${sample_rate}y"}

    checkpoint = open_checkpoint(changed(tmp_path / "i.nemo", change))
    assert checkpoint.mel_features == checkpoint.config["encoder"]["feat_in"] == 128
    assert checkpoint.config["a"]["c"] == "x16000y"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("encoder", "feat_in", value="${nothing.there}"), r"\${nothing\.there} names nothing that is there"),
        (set_in("encoder", "feat_in", value="${encoder.feat_in}"), "leads back to itself"),
        (set_in("encoder", "feat_in", value="${oc.env:HOME}"), "is no plain interpolation; write the value itself"),
        (set_in("encoder", "feat_in", value="???"), r"encoder\.feat_in was left open"),
        (without("encoder", "feat_in"), r"encoder\.feat_in is missing"),
        (without("tokenizer"), "tokenizer is missing"),
        (without("joint"), "joint is missing"),
        (without("decoder", "prednet", "pred_hidden"), r"decoder\.prednet\.pred_hidden is missing"),
        (without("encoder", "att_context_size"), r"encoder\.att_context_size is missing"),
        (set_in("encoder", "att_context_size", value=[]), r"encoder\.att_context_size"),
        (set_in("encoder", "att_context_size", value=[[56]]), r"encoder\.att_context_size"),
        (set_in("encoder", "att_context_size", value=[[56, -1]]), r"encoder\.att_context_size"),
        (set_in("encoder", "n_layers", value="many"), r"encoder\.n_layers is 'many': input should be a valid integer"),
        (set_in("encoder", "n_layers", value=True), r"encoder\.n_layers is True"),
        (set_in("encoder", "n_layers", value=10**6), r"encoder\.n_layers is 1000000: input should be less than or eq"),
        (set_in("encoder", "n_layers", value=500), "describes at least .* million parameters, and its weights have"),
        (set_in("encoder", "d_model", value=8192), "describes at least .* million parameters, and its weights have"),
        (set_in("encoder", "d_model", value=-8), r"encoder\.d_model is -8"),
        (set_in("encoder", "n_heads", value=3), "d_model 8 is no multiple of n_heads 3"),
        (set_in("encoder", "subsampling_factor", value=0), r"encoder\.subsampling_factor is 0"),
        (set_in("encoder", "feat_in", value=80), r"encoder\.feat_in is 80, preprocessor\.features 128"),
        (set_in("encoder", "pos_emb_max_len", value=10**12), r"encoder\.pos_emb_max_len is 1000000000000"),
        (set_in("encoder", value=[]), r"encoder is \[\]|encoder\.att_context_style is None"),
        (set_in("preprocessor", "sample_rate", value="16000"), r"preprocessor\.sample_rate is '16000'"),
        (set_in("preprocessor", "sample_rate", value=10**30), r"preprocessor\.sample_rate is 10000"),
        (
            set_in("preprocessor", "window_stride", value=0.0125),
            r"window_stride is 0\.0125, supported is",
        ),
        (set_in("model_defaults", "num_prompts", value=10**13), r"model_defaults\.num_prompts is 10000000000000"),
        (set_in("model_defaults", "prompt_dictionary", value={"en": 128}), "has en: 128, num_prompts is 128"),
        (set_in("model_defaults", "prompt_dictionary", value={"en": "one"}), r"prompt_dictionary\.en is 'one'"),
        (set_in("model_defaults", "prompt_dictionary", value={}), "prompt_dictionary is missing"),
        (set_in("tokenizer", "type", value="agg"), "tokenizer.type is 'agg', supported is 'bpe'"),
        (set_in("tokenizer", "type", value="wpe"), "tokenizer.type is 'wpe', supported is 'bpe'"),
        (set_in("tokenizer", "custom_tokenizer", value={"a": 1}), "has a tokenizer.custom_tokenizer"),
        (set_in("tokenizer", "model_path", value="nemo:../../../etc/passwd"), "names '../../../etc/passwd', which the"),
        (set_in("tokenizer", "model_path", value="nemo:b.model"), "tokenizer is missing: .* names 'b.model'"),
        (set_in("model", value={"target": "x"}), "has a key `model`, which NeMo would read instead"),
        (set_in("encoder", "_target_", value="os.system"), r"encoder\._target_ is 'os\.system', which lies outside of"),
        (set_in("more", value={"deep": [{"_target_": "subprocess.run"}]}), r"more\.deep\.0\._target_ is 'subprocess"),
        (set_in("more", value={"cls": "os.system", "params": {}}), r"more\.cls is 'os\.system', which lies outside"),
        (
            set_in("target", value="evil.EncDecRNNTBPEModel"),
            r"target is 'evil\.EncDecRNNTBPEModel', which lies",
        ),
    ],
)
def test_configurations_that_cannot_be_used(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(UserError, match=rf"bad\.nemo: .*{message}") as caught:
        open_checkpoint(changed(tmp_path / "bad.nemo", change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("x: !!python/object/apply:os.system ['touch /tmp/ran']", "it uses the YAML tag 'tag:yaml.org,2002:python/obj"),
        ("x: !!python/name:os.system", "it uses the YAML tag"),
        ("x: !mine {a: 1}", "it uses the YAML tag '!mine'"),
        ("x: &a [1, 2]\ny: *a", "it uses the YAML anchor 'a'"),
        ("x: " + "[" * 200 + "]" * 200, "deeper or longer than any model's"),
        ("x: " + "[" * 200_000, "deeper or longer than any model's"),
        ("x: [" + "1, " * 600_000 + "1]", "deeper or longer than any model's"),
        ("sample_rate: 8000", "it has the key 'sample_rate' twice"),
        ("x: " + "9" * 5000, "Exceeds the limit"),
        ("x: [1, 2", "it is no YAML"),
        ("x: 'a\0b'", "it is no YAML"),
        ("\n".join(f"b{n}: '${{b{n + 1}}}${{b{n + 1}}}'" for n in range(40)) + "\nb40: xxxxxxxxxx", "larger than any"),
        ("\n".join(f"b{n}: ['${{b{n + 1}}}', '${{b{n + 1}}}']" for n in range(40)) + "\nb40: 1", "larger than any"),
        ("x: " + "y" * 9_000_000, "it has 9,0"),
    ],
    ids=lambda value: value[:24],
)
def test_yaml_that_no_configuration_is(tmp_path: Path, more: str, message: str) -> None:
    text = yaml.safe_dump(tiny_config(), sort_keys=False) + more + "\n"
    path = write(tmp_path / "bad.nemo", members(text.encode()))
    with pytest.raises(UserError, match=rf"bad\.nemo: its model_config\.yaml cannot be used: .*{message}") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("data", [b"", b"- a\n- b\n", b"\xff\xfe\x00", b"just text"])
def test_no_mapping_is_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match=r"bad\.nemo: its model_config\.yaml cannot be used"):
        open_checkpoint(write(tmp_path / "bad.nemo", members(data)))


@pytest.mark.parametrize("key", ["no", "off", "yes"])
def test_norwegian_that_yaml_reads_as_false(tmp_path: Path, key: str) -> None:
    text = yaml.safe_dump(tiny_config(), sort_keys=False).replace("    en-US: 0\n", f"    en-US: 0\n    {key}: 17\n", 1)
    assert f"{key}: 17" in text
    match = r"prompt_dictionary has the key (False|True), which YAML makes of an unquoted no, .*; put it in quotes"
    with pytest.raises(UserError, match=match):
        open_checkpoint(write(tmp_path / "no.nemo", members(text.encode())))
    quoted = open_checkpoint(write(tmp_path / "q.nemo", members(text.replace(f" {key}: 17", f" '{key}': 17").encode())))
    assert quoted.prompts is not None
    assert quoted.prompts[key] == 17


def test_numbers_are_read_as_nemo_reads_them(tmp_path: Path) -> None:
    text = yaml.safe_dump(tiny_config(), sort_keys=False) + "small: 1e-5\nday: 2026-11-26\n"
    config = open_checkpoint(write(tmp_path / "n.nemo", members(text.encode()))).config
    from omegaconf import OmegaConf

    assert config == OmegaConf.to_container(OmegaConf.create(text))
    assert (config["small"], config["day"]) == (1e-5, "2026-11-26")


@pytest.mark.parametrize("data", [b"", b"\x0a\xff\xff", demo_tokenizer().replace(b"de-DE", b"\xbf\xbf\xbf\xbf\xbf", 1)])
def test_a_damaged_tokenizer_is_one_line(tmp_path: Path, data: bytes) -> None:
    contents = [(name, data if "tokenizer" in str(name) else other) for name, other in members()]
    with pytest.raises(UserError, match="SentencePiece tokenizer is missing or damaged; download it again"):
        open_checkpoint(write(tmp_path / "t.nemo", contents))  # type: ignore[arg-type]


def test_what_a_killed_run_unpacked_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(write(tmp_path / "a.nemo", members(), "w:gz"))  # else nothing is unpacked
    temporary = tmp_path / "tmp"
    left = temporary / ".nemotron-ov.0123abcd.nemotron-ov.tmp"
    left.mkdir(parents=True)
    (left / "model_weights.ckpt").write_bytes(bytes(9))
    (temporary / "mine").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(UserError):  # its weights are zeros
        load_model(checkpoint)
    assert not left.exists()
    assert (temporary / "mine").is_dir()


def test_a_compressed_archive_needs_the_room_that_it_unpacks_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = 1_000_000  # zeros
    contents = [(name, bytes(weights) if name == f"./{WEIGHTS}" else data) for name, data in members()]
    checkpoint = open_checkpoint(write(tmp_path / "a.nemo", contents, "w:gz"))  # type: ignore[arg-type]
    assert checkpoint.size_bytes < checkpoint.weights_bytes == weights
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for free, message in (
        (weights - 1, "is unpacked there, which takes 1.0 MB"),
        (weights, r"model_weights\.ckpt is damaged"),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        with pytest.raises(UserError, match=message):
            read_weights(checkpoint)


def test_a_full_tmpdir_is_no_fault_of_the_checkpoint(
    small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Checkpoint) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nemo, "_tokenizer", full)
    with pytest.raises(OSError, match="No space left on device"):
        load_model(small_checkpoint, {})
