"""The picture of the architecture, and the files that its page names."""

from __future__ import annotations

import re
from collections import Counter

from conftest import ROOT, run_program
from PIL import Image

from scripts.figures.rooms import FLOORS, needed, read_imports


def test_arrows_that_follow_from_others_are_left_out():
    through = Counter({("scripts", "runtime"): 2, ("scripts", "dataset"): 3, ("dataset", "runtime"): 1})
    assert needed(through) == {("scripts", "dataset"): 3, ("dataset", "runtime"): 1}
    upwards = Counter({("tokenizer", "dataset"): 1, ("tokenizer", "runtime"): 1})
    assert needed(upwards) == {("tokenizer", "runtime"): 1}


def test_every_room_is_drawn(tmp_path):
    files, arrows = read_imports()
    rooms = [room for floor in FLOORS for room, *_ in floor]
    assert all(files[room] for room in rooms) and {room for arrow in arrows for room in arrow} == set(rooms)
    run_program("scripts/draw_architecture.py", "--output", tmp_path / "rooms.png")
    with Image.open(tmp_path / "rooms.png") as picture:
        assert min(picture.size) > 500


def test_the_page_names_files_that_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"\]\(([^)#]+)\)", page)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "docs" / name).exists()] == []
