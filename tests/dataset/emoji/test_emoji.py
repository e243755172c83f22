"""The emoji set: names, what is held out, what is written, and whether its verifier is right."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from dataset.emoji.catalogue import Catalogue, build_catalogue
from dataset.emoji.edits import EDIT_KINDS, STICKER_KINDS, EmojiConfig, EmojiEdits, EmojiExample
from dataset.emoji.flags import PrepareEmojiConfig
from dataset.emoji.names import clean_name, gender_of, neutral_name, with_article
from dataset.emoji.package import read_package
from dataset.emoji.prepare import draw_test_sessions, prepare_emoji, train_example
from dataset.emoji.scenes import EmojiScene, Sticker, background_pixels, render, sprite_at
from dataset.emoji.verifier import NOTHING, EmojiVerifier, find_catalogue
from dataset.shapes.scenes import Background
from dataset.testsets.magicbrush import read_sessions
from runtime.errors import UserError
from tests.emoji_package import make_package

SIZE = 72


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def catalogue(package):
    return build_catalogue(read_package(package))


@pytest.fixture(scope="module")
def edits(catalogue):
    return EmojiEdits(catalogue, EmojiConfig())


@pytest.fixture(scope="module")
def examples(edits):
    natural = [edits.natural([1, n]) for n in range(40)]
    return natural + [example for n in range(40) for example in edits.stickers([2, n], turns=2)]


@pytest.fixture(scope="module")
def prepared(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "emoji"
    prepare_emoji(settings(package, folder))
    return folder


def settings(package, folder, **changes):
    values = {"num_train": 20, "num_portraits": 1, "num_test": 20, "num_emu": 3, "num_workers": 1}
    return PrepareEmojiConfig(str(package), str(folder), **values | changes)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "HEAVY BLACK HEART", "short_name": "heart"}, "a red heart"),
        ({"name": "CLOCK FACE SIX-THIRTY", "short_name": "clock630"}, "a clock at half past six"),
        ({"name": "MAN: CURLY HAIR", "short_name": "curly_haired_man"}, "a man with curly hair"),
        ({"name": "France Flag", "short_name": "fr", "subcategory": "country-flag"}, "the flag of france"),
        ({"name": "GRAPES", "short_name": "grapes"}, "grapes"),
        ({"name": "OWL", "short_name": "owl"}, "an owl"),
        ({"name": "FULL MOON SYMBOL", "short_name": "full_moon"}, "a full moon"),
        ({"name": "BLACK SMALL SQUARE", "short_name": "black_small_square"}, "a tiny black square"),
    ],
)
def test_names_are_what_people_say(entry, said):
    assert with_article(clean_name({"category": "Symbols"} | entry)) == said


def test_signs_that_nobody_can_name_are_left_out():
    entry = {"name": "SQUARED CJK UNIFIED IDEOGRAPH-7121", "short_name": "u7121", "category": "Symbols"}
    assert clean_name(entry) is None


def test_genders_stand_together():
    assert gender_of("1F468-200D-1F33E") == ("man", "PERSON-200D-1F33E")
    assert gender_of("1F9D1-200D-1F33E") == ("person", "PERSON-200D-1F33E")
    assert gender_of("1F3C3-200D-2640-FE0F") == ("woman", "1F3C3")
    assert gender_of("1F3C3") == ("person", "1F3C3")
    assert neutral_name("man running", "runner") == "person running"
    assert neutral_name("man farmer", "farmer") == "farmer"


def test_the_catalogue_names_each_picture_once(catalogue):
    names = [sprite.name for sprite in catalogue.sprites]
    assert len(set(names)) == len(names) == 9 * 6 + 4 + 3 + 12 + 1
    assert "flag of france" in names and "flag of clipperton island" not in names
    assert {"man cook", "man cook with dark skin", "cook with light skin"} <= set(names)
    assert Counter(pair.kind for pair in catalogue.pairs) == {
        "tone": 9 * 30,
        "gender": 3 * 6 * 6,
        "color": 12,
        "clock": 6,
    }


def test_what_is_held_out_is_in_no_training_picture(catalogue, edits):
    hidden = {sprite.name for n, sprite in enumerate(catalogue.sprites) if n not in set(catalogue.seen)}
    assert hidden
    for index in range(150):
        example = train_example(edits, 0, index)
        for scene in (example.before, example.after):
            assert not hidden & {sticker.name for sticker in scene.stickers}
        if example.edit.kind not in ("tone", "gender", "color", "clock"):
            assert not example.after.held_out() and not example.before.held_out()
    train = {(pair.source, pair.target) for pair in catalogue.pairs_of(held_out=False)}
    test = {(pair.source, pair.target) for pair in catalogue.pairs_of(held_out=True)}
    assert train and test and not train & test
    toned = {pair.target for pair in catalogue.pairs_of(held_out=True) if pair.kind == "tone"}
    assert toned and not toned & {target for _, target in train}


def test_tests_lie_on_the_held_out_side(edits, catalogue):
    seen = set(catalogue.seen)
    for session in draw_test_sessions(edits, 0, 24).values():
        for example in session:
            if example.edit.kind in ("add", "remove", "replace", "move", "resize", "background"):
                assert example.before.held_out() and example.after.held_out()
            assert {catalogue.by_name[sticker.name] for sticker in example.before.stickers} <= seen


def test_only_the_region_changes_and_it_holds_every_change(examples, catalogue):
    assert {example.edit.kind for example in examples} >= set(EDIT_KINDS) - {"hair", "moon"}
    for example in examples:
        before, after = (render(scene, SIZE, catalogue) for scene in (example.before, example.after))
        differs = (before != after).any(axis=2)
        assert differs.any() and example.before != example.after
        assert not (differs & ~example.edit.region(SIZE)).any()
        again = EmojiExample.from_dict(json.loads(json.dumps(example.to_dict())))
        assert again == example


def test_stickers_lie_inside_and_apart(examples):
    for example in examples:
        for scene in (example.before, example.after):
            boxes = [sticker.box(SIZE) for sticker in scene.stickers]
            assert all(min(box) >= 0 and max(box) <= SIZE for box in boxes)
            pairs = [(a, b) for n, a in enumerate(scene.stickers) for b in scene.stickers[:n]]
            assert not any(a.overlaps(b) for a, b in pairs)


def test_equal_seeds_give_equal_examples_and_any_size(edits, catalogue):
    assert edits.stickers(7, 2) == edits.stickers(7, 2) and edits.natural(7) == edits.natural(7)
    large = EmojiEdits(catalogue, dataclasses.replace(edits.config, image_size=160)).natural(7)
    assert large.edit.instruction == edits.natural(7).edit.instruction
    assert render(large.after, 160, catalogue).shape == (160, 160, 3)


def test_stickers_of_few_names(catalogue, edits):
    few = EmojiEdits(catalogue, EmojiConfig(num_sticker_names=9))
    bases = {sprite.name: sprite.base for sprite in catalogue.sprites}

    def shown(source: EmojiEdits, **words) -> set[str]:
        examples = [example for n in range(60) for example in source.stickers([3, n], turns=2, **words)]
        scenes = [scene for example in examples for scene in (example.before, example.after)]
        return {bases[sticker.name] for scene in scenes for sticker in scene.stickers}

    names = shown(few)
    words = sorted(len(catalogue.sprites[n].base.split()) for n in catalogue.seen)
    assert len(names) == 9 < len(shown(edits))
    assert sorted(len(name.split()) for name in names)[0] == words[0] == 1
    assert names | shown(few, held_out=True) == names, "the same names on both sides of the splits"
    drawn = [few.natural([4, n]).wanted.name for n in range(40)]
    assert {bases[name] for name in drawn} - names, "portraits are of all names"
    with pytest.raises(UserError, match="num_sticker_names=7: choose 8 or more"):
        EmojiConfig(num_sticker_names=7)


def test_kinds_of_training_are_chosen_and_test_sets_have_all(catalogue, edits):
    chosen = EmojiEdits(catalogue, EmojiConfig(sticker_kinds=("add", "move", "move")))

    def kinds(held_out: bool) -> Counter:
        return Counter(chosen.stickers([5, n], held_out=held_out)[0].edit.kind for n in range(90))

    trained = kinds(held_out=False)
    assert trained.keys() == {"add", "move"} and trained["move"] > trained["add"] > 9
    assert kinds(held_out=True).keys() == set(STICKER_KINDS)
    with pytest.raises(UserError, match="sticker_kinds=.*'tone'.*: choose of add, remove"):
        EmojiConfig(sticker_kinds=("add", "tone"))
    assert edits.stickers(7) == EmojiEdits(catalogue, EmojiConfig()).stickers(7)


def test_the_verifier_passes_true_results_and_fails_the_source(examples, catalogue):
    verifier = EmojiVerifier(catalogue)
    for example in examples[::4]:
        truth, copy = (render(scene, SIZE, catalogue) for scene in (example.after, example.before))
        assert verifier.verify_edit(truth, example).passed_and_unchanged, example.edit.instruction
        verdict = verifier.verify_edit(copy, example)
        assert not verdict.passed and verdict.others_unchanged
        noisy = np.clip(truth + np.random.default_rng(0).normal(0, 12, truth.shape), 0, 255).astype(np.uint8)
        assert verifier.verify_edit(noisy, example).passed_and_unchanged
        assert verifier.verify_scene(truth, example.after)["passed"]


def test_the_verifier_sees_damage_elsewhere(catalogue):
    verifier = EmojiVerifier(catalogue)
    background = Background("mint")
    kept, old = Sticker("owl", 3, 0, 0), Sticker("banana", 3, 6, 6)
    scene = EmojiScene((kept, old), background)
    edits = EmojiEdits(catalogue, EmojiConfig())
    example = next(
        found
        for n in range(400)
        if (found := edits._edit(np.random.default_rng(n), scene, False, None))
        and found.edit.kind == "remove"
        and old in found.before.stickers
        and kept in found.after.stickers
    )
    truth = render(example.after, SIZE, catalogue)
    assert verifier.verify_edit(truth, example).passed_and_unchanged
    gone = truth.copy()
    gone[:24, :24] = background_pixels(background, SIZE)[:24, :24]
    verdict = verifier.verify_edit(gone, example)
    assert verdict.passed and not verdict.others_unchanged
    more = truth.copy()
    more[26:34, 40:48] = (200, 0, 0)
    assert not verifier.verify_edit(more, example).others_unchanged


def test_the_product_of_matrices_is_the_plain_distance(catalogue):
    """Against one difference a sprite and shift."""
    verifier = EmojiVerifier(catalogue)
    rng = np.random.default_rng(3)
    images, behind = rng.random((2, 4, 24, 24, 3)).astype(np.float32)
    fast = verifier._distances(images, behind, 24)
    for number in range(0, len(catalogue.sprites), 7):
        sprite = sprite_at(catalogue, number, 24)
        drawn = sprite[..., :3] + (1 - sprite[..., 3:]) * behind
        assert fast[number] == pytest.approx(np.square(images - drawn).mean(axis=(1, 2, 3)), abs=2e-6)
    assert fast[-1] == pytest.approx(np.square(images - behind).mean(axis=(1, 2, 3)), abs=2e-6)


def test_a_shifted_sticker_is_recognised_and_an_empty_place_is_nothing(catalogue):
    verifier, background = EmojiVerifier(catalogue), Background("pink", "speckled", 1)
    sticker = Sticker("man cook with dark skin", 5, 2, 2)
    scene = EmojiScene((sticker,), background)
    picture = np.roll(render(scene, SIZE, catalogue), 1, axis=1)
    assert verifier.nearest(picture, sticker, scene)[0] == sticker.name
    empty = render(EmojiScene((), background), SIZE, catalogue)
    assert verifier.nearest(empty, sticker, scene)[0] == NOTHING
    wrong = EmojiScene((dataclasses.replace(sticker, name="man cook with light skin"),), background)
    found, _ = verifier.nearest(render(wrong, SIZE, catalogue), sticker, scene)
    numbers = (catalogue.by_name[sticker.name], catalogue.by_name[found])
    assert catalogue.relation(*numbers) == "tone"
    assert catalogue.relation(numbers[0], catalogue.by_name["owl"]) == "other"


def test_everything_is_written_with_its_licence(prepared, package):
    train = [json.loads(line) for line in (prepared / "train" / "editing.jsonl").read_text().splitlines()]
    assert len(train) == 20
    for line in train:
        source, edited = (
            np.asarray(Image.open(prepared / "train" / line[key])) for key in ("file_name", "edited_image")
        )
        if line["mask_image"] != "NONE":
            mask = np.asarray(Image.open(prepared / "train" / line["mask_image"])) > 127
            assert (source == edited)[~mask].all()
    captions = (prepared / "train" / "t2i.jsonl").read_text()
    assert captions.count("portrait_") >= 40
    sessions = read_sessions(prepared / "test")
    assert sum(map(len, sessions.values())) == 20
    assert (prepared / "test_emu" / "test.parquet").exists() and (prepared / "preview.png").exists()
    groups = Counter(
        item["group"] for item in json.loads((prepared / "drawings" / "scenes.json").read_text())
    )
    assert groups["seen"] == 4 and groups["new_tone"] > 0
    notice = (prepared / "NOTICE.txt").read_text()
    assert "Noto emoji" in notice and "Apache License" in notice and "MIT" in notice
    assert "Apache License" in (prepared / "LICENSE-pictures.txt").read_text()
    assert (prepared / "LICENSE-index.txt").read_text() == (package / "LICENSE").read_text()
    loaded = find_catalogue(prepared / "test" / "emoji.json")
    assert isinstance(loaded, Catalogue) and loaded.by_name["owl"] >= 0


def test_an_archive_gives_the_same_set_and_a_finished_one_is_left_alone(prepared, package, tmp_path):
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        archive.add(package, "package")
    before = (prepared / "train" / "t2i.jsonl").stat().st_mtime_ns
    prepare_emoji(settings(tmp_path / "package.tgz", prepared))
    assert (prepared / "train" / "t2i.jsonl").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="num_test=20 instead of 21"):
        prepare_emoji(settings(package, prepared, num_test=21))


def test_what_is_no_package_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        settings(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="holds no emoji.json"):
        read_package(tmp_path)
    (tmp_path / "broken.tgz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no readable archive"):
        read_package(tmp_path / "broken.tgz")
    folder = make_package(tmp_path, vendor="apple")
    with pytest.raises(UserError, match="nobody may pass on"):
        prepare_emoji(settings(folder, tmp_path / "out"))
    (folder / "img" / "apple" / "64" / "1f400.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="1f400.png is no readable PNG"):
        build_catalogue(read_package(folder))
    (folder / "emoji.json").write_text('[{"name": 1}]')
    with pytest.raises(UserError, match="not a list of emoji"):
        read_package(folder)


def test_the_verifier_refuses_what_it_cannot_read(catalogue, examples, tmp_path):
    verifier = EmojiVerifier(catalogue)
    with pytest.raises(UserError, match="square"):
        verifier.verify_edit(np.zeros((4, 5, 3), np.uint8), examples[0])
    with pytest.raises(UserError, match="no sprites.npz"):
        find_catalogue(tmp_path / "test" / "emoji.json")
    foreign = dataclasses.replace(
        examples[0], after=EmojiScene((Sticker("unicorn", 3, 0, 0),), Background("pink"))
    )
    with pytest.raises(UserError, match="lack 'unicorn'"):
        verifier.require([foreign], "emoji.json")
