"""The text encoder, the small one made on the spot, and the extraction program."""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import run_program

from dataset.records.edit_records import JsonlEditRecords
from dataset.records.t2i_records import read_llamagen_folder, read_t2i_jsonl
from language.feature_extraction import extract
from language.flags import ExtractConfig
from language.small_encoder import OFFSETS, make_small_t5, read_captions
from language.t5 import T5Encoder, T5Tokenizer, encode_texts, resolve_t5
from language.text_features import load_text_features
from runtime.config import parse
from runtime.distributed import ONE_RANK
from runtime.errors import UserError

WIDTH = 32
COLORS = ("red", "blue", "green", "gray")
SHAPES = ("circle", "square", "star")
PLACES = ("top left", "top right", "center", "bottom left", "bottom right")
CAPTIONS = [f"a {color} {shape} at the {place}" for color in COLORS for shape in SHAPES for place in PLACES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("models") / "t5"
    make_small_t5(CAPTIONS, target, WIDTH)
    return target


@pytest.fixture(scope="module")
def encoder(folder):
    return T5Encoder(folder)


@pytest.fixture
def notices(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("nep"), "propagate", True)  # where the project's logger is set up
    caplog.set_level(logging.WARNING)
    return caplog


def test_features_are_valid_rows_at_unit_scale(encoder):
    (features,) = encoder.encode(["A RED circle!"])
    assert encoder.width == WIDTH
    assert features.embeddings.shape == (5, WIDTH) and features.embeddings.dtype == torch.float32
    assert features.valid.all()
    torch.testing.assert_close(features.embeddings.square().mean(1), torch.ones(5), atol=1e-4, rtol=0)


def test_result_does_not_depend_on_the_batch(encoder):
    texts = ["a red circle", "", CAPTIONS[0] + ", " + CAPTIONS[-1], "star"]
    together, alone = encoder.encode(texts, batch_size=4), encoder.encode(texts, batch_size=1)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.embeddings, b.embeddings, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("batch_size", "passes"), [(50, [40]), (16, [16, 16, 8])])
def test_a_forward_pass_takes_as_many_captions_as_asked_for(encoder, batch_size, passes):
    taken = []
    hook = encoder._model.register_forward_pre_hook(lambda _, inputs: taken.append(len(inputs[0])))
    encoder.encode(CAPTIONS[:40], batch_size)
    hook.remove()
    assert taken == passes


def test_empty_prompt_is_the_end_token_and_no_prompts_are_none(encoder):
    empty, cleaned_away = encoder.encode(["", "free shipping"])
    assert empty.embeddings.shape == (1, WIDTH)
    assert torch.equal(empty.embeddings, cleaned_away.embeddings)
    assert encoder.encode([]) == [] and encoder.count_tokens([]) == []


def test_long_prompt_is_cut_with_one_notice(encoder, notices):
    exact, long = encoder.encode([" ".join(["star"] * 119), " ".join(["star"] * 1000)])
    assert len(exact.valid) == len(long.valid) == 120
    assert torch.equal(exact.embeddings, long.embeddings), "the end token must be kept"
    messages = [record.getMessage() for record in notices.records]
    assert len(messages) == 1 and "1001 tokens" in messages[0] and "120" in messages[0]


def test_count_tokens_is_the_number_of_features(encoder):
    texts = ["a red circle", "", "star " * 300]
    assert encoder.count_tokens(texts) == [len(f.valid) for f in encoder.encode(texts)] == [4, 1, 120]


def test_bf16_stays_close_and_returns_float32(folder, encoder):
    half = T5Encoder(folder, precision=torch.bfloat16).encode(CAPTIONS[:3])
    for a, b in zip(half, encoder.encode(CAPTIONS[:3]), strict=True):
        assert a.embeddings.dtype == torch.float32
        torch.testing.assert_close(a.embeddings, b.embeddings, atol=0.1, rtol=0)


def test_frozen(encoder):
    assert not encoder.encode(["star"])[0].embeddings.requires_grad


def test_small_t5_is_determined_by_its_seed(tmp_path, encoder):
    make_small_t5(reversed(CAPTIONS), tmp_path / "same", WIDTH)
    make_small_t5(CAPTIONS, tmp_path / "other", WIDTH, seed=1)
    assert T5Encoder(tmp_path / "same").fingerprint() == encoder.fingerprint()
    assert T5Encoder(tmp_path / "other").fingerprint() != encoder.fingerprint()


def test_small_t5_binds_neighbours(encoder):
    def circle(text):
        return encoder.encode([text])[0].embeddings[2]

    red, blue = circle("a red circle at the center"), circle("a blue circle at the center")
    assert (red - blue).norm() > 0.25 * red.norm()  # the neighbours are seen
    assert torch.cosine_similarity(red, blue, dim=0) > 0.7  # and the word is not hidden
    far = "a red circle at the center, a {} star at the center"
    torch.testing.assert_close(
        circle(far.format("red")), circle(far.format("green"))
    )  # 7 words away: not seen


def test_colour_and_place_can_be_read_off_the_noun_linearly(encoder):
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(CAPTIONS), generator=generator).tolist()
    rows = torch.stack([f.embeddings[2] for f in encoder.encode([CAPTIONS[i] for i in order])])
    half = len(order) // 2
    for name_of in (lambda text: text.split()[1], lambda text: text.split("the ")[1]):
        names = [name_of(CAPTIONS[i]) for i in order]
        classes = sorted(set(names))
        labels = torch.tensor([classes.index(name) for name in names])
        targets = torch.nn.functional.one_hot(labels).float()
        gram = rows[:half].T @ rows[:half] + torch.eye(WIDTH)
        probe = torch.linalg.solve(gram, rows[:half].T @ targets[:half])
        accuracy = ((rows[half:] @ probe).argmax(1) == labels[half:]).float().mean()
        assert accuracy > 0.9, (classes, accuracy)


def test_each_head_attends_to_one_neighbour(encoder):
    attention = encoder._model.encoder.block[0].layer[0].SelfAttention
    weights = attention.compute_bias(12, 12)[0].softmax(-1)
    for head, offset in enumerate(OFFSETS):
        for position in range(12):
            expected = position + offset if 0 <= position + offset < 12 else position
            assert weights[head, position, expected] > 0.999, (offset, position)


def test_resolve_t5(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("language.t5.try_to_load_from_cache", lambda *_: None)
    assert resolve_t5(folder) == str(folder)
    assert resolve_t5(folder.parent, "t5") == str(folder)
    with pytest.raises(UserError, match="hf download google/flan-t5-xl"):
        resolve_t5(tmp_path, "flan-t5-xl")
    monkeypatch.setattr("language.t5.try_to_load_from_cache", lambda *_: "/cache/config.json")
    assert resolve_t5(None) == "google/flan-t5-xl"
    # The published place comes first.
    monkeypatch.chdir(tmp_path)
    place = Path("pretrained_models/t5-ckpt/flan-t5-xl")
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    assert resolve_t5(None) == str(place)


def test_hub_ids_and_bare_names_mean_the_same_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Path("pretrained_models/t5-ckpt/flan-t5-small")
    shutil.copytree(folder, place)
    assert resolve_t5(None, "google/flan-t5-small") == resolve_t5(None, "flan-t5-small") == str(place)
    assert T5Encoder(place).hub_id == "google/flan-t5-small" and T5Encoder(folder).hub_id is None
    with pytest.raises(UserError, match="no text encoder 'somebody/flan-t5-small'"):
        resolve_t5(None, "somebody/flan-t5-small")
    with pytest.raises(UserError, match="no text encoder 'no/name/there'"):
        resolve_t5(None, "no/name/there")


def test_ready_made_features_come_to_the_cpu_too(encoder):
    (on_cpu,) = encoder.encode(["a red circle"])
    there = SimpleNamespace(  # of another device
        embeddings=SimpleNamespace(cpu=lambda: on_cpu.embeddings),
        valid=SimpleNamespace(cpu=lambda: on_cpu.valid),
    )
    ready, encoded = encode_texts(encoder, [there, "a red circle"])
    assert torch.equal(ready.embeddings, encoded.embeddings) and torch.equal(ready.valid, encoded.valid)


def test_damaged_models_are_user_errors(folder, tmp_path):
    with pytest.raises(UserError, match="must hold config.json"):
        T5Encoder(tmp_path / "absent")
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="broken"):
        T5Encoder(broken)
    deeper = shutil.copytree(folder, tmp_path / "deeper")
    config = json.loads((deeper / "config.json").read_text())
    (deeper / "config.json").write_text(json.dumps(config | {"num_layers": 2}))
    with pytest.raises(UserError, match="missing"):
        T5Encoder(deeper)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"num_layers": 0}, "more blocks than its config.json, 0"),
        ("tokenizer.json", {"zebra": 10_000}, "knows tokens up to 10000, its model"),
        ("tokenizer_config.json", {"pad_token": None}, "no padding token"),
    ],
)
def test_files_of_different_models_are_refused(folder, tmp_path, file, change, message):
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    content = json.loads((mixed / file).read_text())
    (content["model"]["vocab"] if file == "tokenizer.json" else content).update(change)
    (mixed / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        T5Encoder(mixed)


def write_jsonl(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run_extraction(folder, *flags):
    words = ["--t5-model-path", str(folder), "--precision", "none", *map(str, flags)]
    extract(parse(ExtractConfig, words), ONE_RANK)


def test_extract_a_list_that_training_reads(tmp_path, folder, encoder):
    data = write_jsonl(
        tmp_path / "t2i.jsonl", [{"image_path": f"{i}.png", "text": CAPTIONS[i]} for i in range(5)]
    )
    run_extraction(folder, "--data-path", data, "--batch-size", 2)
    records = read_t2i_jsonl([tmp_path / "t2i_t5.jsonl"])
    assert len(records) == 5
    for record, caption in zip(records, CAPTIONS, strict=False):
        stored = load_text_features(record.text_feature_path, WIDTH).embeddings
        torch.testing.assert_close(stored, encoder.encode([caption])[0].embeddings, atol=1e-5, rtol=0)


def test_extract_resumes_and_repairs(tmp_path, folder):
    data = write_jsonl(
        tmp_path / "t2i.jsonl", [{"image_path": "a.png", "text": text} for text in CAPTIONS[:4]]
    )
    run_extraction(folder, "--data-path", data)
    features = tmp_path / "t2i_t5.jsonl"
    files = sorted((tmp_path / "t5_features" / "t2i").glob("*.npy"))
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].unlink()
    before = [file.stat().st_mtime_ns for file in files[2:]]
    run_extraction(folder, "--data-path", data)
    assert [file.stat().st_mtime_ns for file in files[2:]] == before, "good files were written again"
    for record in read_t2i_jsonl([features]):
        load_text_features(record.text_feature_path, WIDTH)


def test_extract_refuses_to_mix(tmp_path, folder):
    data = write_jsonl(tmp_path / "t2i.jsonl", [{"image_path": "a.png", "text": "star"}])
    run_extraction(folder, "--data-path", data)
    with pytest.raises(UserError, match="other precision"):
        run_extraction(folder, "--data-path", data, "--precision", "bf16")
    write_jsonl(data, [{"image_path": "a.png", "text": "circle"}])
    with pytest.raises(UserError, match="other captions"):
        run_extraction(folder, "--data-path", data)


def test_extract_llamagen_folder_on_two_ranks(tmp_path, folder):
    for name in ("00000", "00001", "00002"):
        lines = [{"image_path": "x.png", "text": [f"{c} star", f"long {c}. rest"]} for c in COLORS[:3]]
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", lines)
    flags = (
        "--data-path",
        tmp_path / "data",
        "--t5-path",
        tmp_path / "out",
        "--data-start",
        1,
        "--data-end",
        2,
    )
    program = ("language/extract_t5_feature.py", "--t5-model-path", folder, "--precision", "none")
    run_program(*program, "--device", "cpu", *flags, ranks=2)
    assert sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.npy")) == [
        f"0000{i}/{line}.npy" for i in (1, 2) for line in range(3)
    ]
    (tmp_path / "data" / "00000.jsonl").unlink()
    assert all(r.text_feature_path for r in read_llamagen_folder(tmp_path / "data", tmp_path / "out"))
    run_extraction(
        folder, *flags[:2], "--t5-path", tmp_path / "short", "--caption-key", "llava", "--trunc-caption"
    )
    assert load_text_features(tmp_path / "short" / "00001" / "0.npy", WIDTH).embeddings.shape[0] == 3


def test_extract_both_texts_of_edit_pairs(tmp_path, folder, encoder):
    line = {"file_name": "a.png", "edited_image": "b.png", "mask_image": "NONE",
            "edit_prompt": "a star", "output_caption": "a red star"}  # fmt: skip
    data = write_jsonl(tmp_path / "edits.jsonl", [line])
    run_extraction(folder, "--data-path", data, "--caption-key", "output_caption")
    run_extraction(folder, "--data-path", tmp_path / "edits_t5.jsonl", "--caption-key", "edit_prompt")
    for field, text in (("target_caption", "a red star"), ("instruction", "a star")):
        (record,) = JsonlEditRecords([tmp_path / "edits_t5_t5.jsonl"], field)
        stored = load_text_features(record.text_feature_path, WIDTH).embeddings
        torch.testing.assert_close(stored, encoder.encode([text])[0].embeddings)


def test_extract_bad_input(tmp_path, folder):
    data = write_jsonl(tmp_path / "a.jsonl", [{"text": "star"}, {"caption": "star"}])
    with pytest.raises(UserError, match="a.jsonl line 2.*--caption-key.*'caption'"):
        run_extraction(folder, "--data-path", data)
    with pytest.raises(UserError, match="does not exist"):
        run_extraction(folder, "--data-path", tmp_path / "absent")
    with pytest.raises(UserError, match="name a folder"):
        run_extraction(folder, "--data-path", tmp_path)


def test_extract_stops_when_the_disk_is_too_small(tmp_path, folder, monkeypatch):
    data = write_jsonl(tmp_path / "a.jsonl", [{"text": "star"}])
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("language.feature_extraction.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="free space"):
        run_extraction(folder, "--data-path", data)


def test_read_captions_takes_every_text(tmp_path):
    lines = [{"text": ["one", "two"], "image_path": "no"}, {"edit_prompt": "three", "output_caption": "four"}]
    data = write_jsonl(tmp_path / "a.jsonl", lines)
    assert read_captions([data]) == {"one", "two", "three", "four"}


CODE = """
import pathlib
pathlib.Path({marker!r}).write_text("run")
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel
class Own(PreTrainedTokenizerFast): pass
class OwnConfig(T5Config): pass
class OwnModel(T5EncoderModel): pass
"""
OWN_CODE = {
    "tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}),
    "tokenizer of its own class": (
        "tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"},
    ),
    "config": ("config.json", {"auto_map": {"AutoConfig": "own.OwnConfig"}}),
    "model type": ("config.json", {"auto_map": {"AutoConfig": "own.OwnConfig"}, "model_type": "own"}),
    "model": ("config.json", {"auto_map": {"AutoModel": "own.OwnModel"}, "architectures": ["OwnModel"]}),
}


@pytest.mark.parametrize("kind", OWN_CODE)
def test_code_in_a_model_folder_is_not_run_and_nobody_is_asked(folder, tmp_path, kind):
    name, change = OWN_CODE[kind]
    target, marker = tmp_path / "t5", tmp_path / "marker"
    shutil.copytree(folder, target)
    (target / "own.py").write_text(CODE.format(marker=str(marker)))
    (target / name).write_text(json.dumps(json.loads((target / name).read_text()) | change))
    stdin = io.StringIO("y\n" * 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", stdin)
        with pytest.raises(UserError, match=f"code of its own .{name}.*not run"):
            T5Encoder(target)
    assert stdin.tell() == 0 and not marker.exists()


def test_loading_says_itself_that_code_is_not_trusted(folder, monkeypatch):
    """Also where a file names code that the look beforehand does not know of."""
    from transformers import AutoTokenizer, T5EncoderModel

    asked = []
    for loader in (AutoTokenizer, T5EncoderModel):
        load = loader.from_pretrained

        def watched(*args, _load=load, **options):
            asked.append(options["trust_remote_code"])
            return _load(*args, **options)

        monkeypatch.setattr(loader, "from_pretrained", watched)
    T5Encoder(folder)
    assert asked == [False, False]


def test_texts_that_say_nothing_are_counted(caplog):
    tokenizer = T5Tokenizer(None, 120)
    for texts in (["a"], ["page 3"], ["b"], ["", "page 3"], ["", "c"]):
        tokenizer.clean(texts)
    said = [record.getMessage()[:9] for record in caplog.records]
    assert said == ["1 text(s)", "3 text(s)", "4 text(s)"] and "'page 3'" in caplog.text


def test_a_smaller_limit_set_later_cuts_texts(t5_dir):
    """As the samplers' --t5-feature-max-len does."""
    encoder = T5Encoder(t5_dir)
    long = "a red circle at the top left and a blue square"
    before = len(encoder.encode([long])[0].valid)
    encoder.max_tokens = 4
    assert before > 4
    assert len(encoder.encode([long])[0].valid) == encoder.count_tokens([long])[0] == 4
