"""Own pairs: both layouts, every mistake at once by name and with its fix, the list, an edit of each."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoregressive.sample.file_edits import read_jobs
from autoregressive.sample.flags import SampleEditing
from autoregressive.train.config import EditingConfig
from autoregressive.train.stages import list_own_pairs
from dataset.records.edit_records import JsonlEditRecords
from dataset.records.own_pairs import check_own_pairs, find_own_pairs, holds_own_pairs, list_line
from runtime.distributed import ONE_RANK
from runtime.errors import UserError


def picture(path: Path, value: int = 0, size: tuple[int, int] = (24, 24), *, square: bool = False) -> None:
    """A grey picture, with a white square in the corner if asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    if square:
        pixels[:8, :8] = 255
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Three pairs in folders; the third has no mask."""
    root = tmp_path / "my_pairs"
    for name in ("cat", "dog 10", "dog 9"):
        picture(root / "source" / f"{name}.png", 40)
        picture(root / "edited" / f"{name}.jpg", 40, square=True)
    for name in ("cat", "dog 10"):
        picture(root / "mask" / f"{name}_mask.png", square=True)
    lines = ["name,prompt,caption", "cat.png,make it white,", '"dog 9","a, b",a dog', "dog 10,remove it,none"]
    (root / "prompts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def mistakes(root: Path) -> list[str]:
    with pytest.raises(UserError) as refused:
        check_own_pairs(root)
    head, *lines = str(refused.value).splitlines()
    assert head == f"{root}: {len(lines)} thing(s) to mend:"
    return [line.strip().replace(f"{root}/", "") for line in lines]


def test_pairs_in_folders(pairs):
    found, notes = check_own_pairs(pairs)
    assert [(p.name, p.prompt, p.caption, p.mask is None) for p in found] == [
        ("cat", "make it white", None, False),
        ("dog 9", "a, b", "a dog", True),
        ("dog 10", "remove it", "none", False),
    ]
    assert notes == [] and holds_own_pairs(pairs) and not holds_own_pairs(pairs / "edited")


def test_pairs_in_one_folder(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}_source.png")
        picture(tmp_path / f"{name}_edited.png", square=True)
        (tmp_path / f"{name}.txt").write_text(f"paint {name}\n")
    picture(tmp_path / "a_mask.png", square=True)
    found, _ = check_own_pairs(tmp_path)
    assert [(p.name, p.prompt, p.mask and p.mask.name) for p in found] == [
        ("a", "paint a", "a_mask.png"),
        ("b", "paint b", None),
    ]
    assert holds_own_pairs(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}_source.png").unlink()
    assert not holds_own_pairs(tmp_path)  # results whose names say that they were edited


def test_all_files_that_lack_something_are_named_at_once(pairs):
    (pairs / "edited" / "cat.jpg").unlink()
    picture(pairs / "source" / "dog 9.webp")
    (pairs / "stray.png").write_bytes((pairs / "source" / "cat.png").read_bytes())
    (pairs / "mask" / "notes.doc").touch()
    with (pairs / "prompts.csv").open("a") as file:
        file.write("bird,fly,,away\ncow,make it red,\ncat,again,\ndog,,\n")
    with pytest.raises(UserError) as refused:
        find_own_pairs(pairs)
    said = str(refused.value).replace(f"{pairs}/", "")
    for part in (
        "cat.png: has no edited picture of the same name: add it, or move it away",
        "source/dog 9.png and source/dog 9.webp are both the source of 'dog 9': keep one",
        "stray.png: its name does not say what it is: call it stray_source.png or",
        "mask/notes.doc: no picture",
        "prompts.csv line 5: has more fields than columns: put quotes",
        "prompts.csv line 6: there are no pictures called 'cow'",
        "prompts.csv line 2 and prompts.csv line 7 both say a prompt for 'cat': keep one",
        "prompts.csv line 8: says nothing: write what is to be done",
    ):
        assert part in said, part


def test_all_pictures_that_cannot_be_used_are_named_at_once(pairs):
    picture(pairs / "edited" / "cat.jpg", 40, (20, 24), square=True)
    picture(pairs / "mask" / "dog 10_mask.png")
    (pairs / "source" / "dog 9.png").write_bytes(b"no picture")
    assert mistakes(pairs) == [
        "edited/cat.jpg: is 20x24, its source 24x24: save both at one size",
        "source/dog 9.png: not an image of a known format (PNG, JPEG, WEBP, BMP, GIF): save it as one",
        "mask/dog 10_mask.png: marks nothing: paint what changes white, the rest black",
    ]
    picture(pairs / "source" / "dog 9.png", 40)
    picture(pairs / "edited" / "dog 9.jpg", 41)
    assert (
        "edited/dog 9.jpg: shows what its source shows: there is nothing to learn, leave it out"
        in mistakes(pairs)
    )


def test_what_changes_outside_of_a_mask_is_told_but_no_mistake(pairs):
    picture(pairs / "edited" / "cat.jpg", 200, square=True)
    _, (note,) = check_own_pairs(pairs)
    assert note.endswith("cat_mask.png: 100% of what lies outside of it differs too, and is not learned")


def test_accents_are_one_letter_whoever_wrote_the_name(tmp_path):
    for role, value in (("source", 0), ("edited", 200)):
        picture(tmp_path / role / f"{unicodedata.normalize('NFD', 'ü')}.png", value)
    (tmp_path / "prompts.csv").write_text("name,prompt\nü,brighten it\n", encoding="utf-8")
    (pair,) = find_own_pairs(tmp_path)
    assert (pair.name, pair.prompt) == ("ü", "brighten it")


@pytest.mark.parametrize(
    "content, message",
    [
        ("file,text\n", "must name the columns name,prompt (and caption); it has file, text"),
        ("", "it has nothing"),
        ('name,prompt\ncat,"open\n', "cannot be read"),
        ("name,prompt,Prompt\ncat,a,b\n", "its first line names the column prompt twice"),
    ],
)
def test_tables_that_cannot_be_read(pairs, content, message):
    (pairs / "prompts.csv").write_text(content)
    with pytest.raises(UserError) as refused:
        find_own_pairs(pairs)
    assert message in str(refused.value) and "prompts.csv" in str(refused.value)


def test_folders_that_hold_no_pairs(tmp_path):
    with pytest.raises(UserError, match="no such folder; it should hold your pairs"):
        find_own_pairs(tmp_path / "none")
    with pytest.raises(UserError, match="no pairs in it; put pictures into .*/source and .*/edited"):
        find_own_pairs(tmp_path)


def test_the_list_is_one_that_stage_2_reads(pairs, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps(list_line(p)) + "\n" for p in find_own_pairs(pairs))
    )
    records = JsonlEditRecords([tmp_path / "pairs.jsonl"], "instruction", absolute_paths=True)
    assert [(r.text, r.mask_path is None, r.source_path.name) for r in records] == [
        ("make it white", False, "cat.png"),
        ("a, b", True, "dog 9.png"),
        ("remove it", False, "dog 10.png"),
    ]


def test_a_training_takes_the_folder(pairs, tmp_path):
    config = EditingConfig(vq_ckpt="v.pt", data=str(pairs), results_dir=str(tmp_path / "run"))
    listed = list_own_pairs(config, ONE_RANK)
    assert listed.data_path == [str(tmp_path / "run" / "pairs.jsonl")] and listed.absolute_paths
    assert (
        list_own_pairs(listed, ONE_RANK) is listed
        and len(Path(listed.data_path[0]).read_text().splitlines()) == 3
    )
    (pairs / "source" / "cat.png").unlink()
    with pytest.raises(UserError, match="1 thing.s. to mend"):
        list_own_pairs(config, ONE_RANK)
    with pytest.raises(UserError, match="--data my and --data-path both say what to train on"):
        EditingConfig(vq_ckpt="v.pt", data="my", data_path=["a.jsonl"])


def test_an_edit_of_each_source(pairs, tmp_path):
    config = SampleEditing(data=str(pairs), output_dir=str(tmp_path / "edits"))
    jobs = read_jobs(config)
    assert [(job.prompt, job.output.name, job.mask is None) for job in jobs] == [
        ("make it white", "cat.png", False),
        ("a, b", "dog 9.png", True),
        ("remove it", "dog 10.png", False),
    ]
    with pytest.raises(UserError, match="'cat' has no caption of the result for --mode zero_shot"):
        read_jobs(SampleEditing(data=str(pairs), output_dir="x", mode="zero_shot"))
    with pytest.raises(UserError, match="--data and --output-dir go together"):
        SampleEditing(data=str(pairs))
