"""What the recipe of the shapes models says to the programs: flags that exist, and only those asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoregressive.train.config import EditingConfig, T2IConfig
from autoregressive.train.packing.config import ExtractCodesConfig
from dataset.shapes.flags import PrepareShapesConfig
from runtime.config import parse
from runtime.errors import UserError
from scripts.shapes.config import Quickstart, TrainShapes
from scripts.shapes.recipe import ShapesRecipe, make_data, pack_images, train_stage1, train_stage2

STEPS = {"tokenizer": 2, "stage1": 3, "stage2": 4}
PLAIN = ShapesRecipe("hard", 10, 4, STEPS)
ANY_ORDER = replace(
    PLAIN,
    variant="named_offsets",
    own_cell=True,
    region_share=0.5,
    region_orders=("random", "random", "raster"),
    edit_orders=("raster", "random"),
)


class Recorder:
    """Stands in for StepRunner: keeps the commands."""

    def __init__(self, root):
        self.root, self.commands = root, {}

    def run(self, name, output, command, resume_flag=None, num_ranks=1):
        self.commands[name] = command


def commands(recipe, root):
    runner = Recorder(root)
    make_data(recipe, runner)
    stage1 = train_stage1(recipe, runner, "vq.pt")
    train_stage2(recipe, runner, "vq.pt", stage1)
    return runner.commands


def test_a_recipe_in_any_order_says_so_to_all_programs(tmp_path):
    told = commands(ANY_ORDER, tmp_path)
    stage1, stage2 = parse(T2IConfig, told["stage1"][1:]), parse(EditingConfig, told["stage2"][1:])
    assert stage1.own_cell and stage2.own_cell and stage1.codebook_init
    assert stage1.region_orders == ["random", "random", "raster"] and stage1.region_share == 0.5
    assert stage2.edit_orders == ["raster", "random"]
    assert parse(PrepareShapesConfig, told["data"][1:]).variant == "named_offsets"


def test_a_recipe_without_them_says_what_it_said(tmp_path):
    told = commands(PLAIN, tmp_path)
    flags = {word for command in told.values() for word in command}
    assert not flags & {"--own-cell", "--region-orders", "--edit-orders", "--variant", "--warmup-steps"}
    assert parse(T2IConfig, told["stage1"][1:]).region_share == 0.8


def test_stage_1_trains_on_images_that_were_packed_for_several_trainings(tmp_path):
    runner = Recorder(tmp_path)
    packed = pack_images(ANY_ORDER, runner, "vq.pt")
    train_stage1(ANY_ORDER, runner, "vq.pt", packed=packed)
    packing = parse(ExtractCodesConfig, runner.commands["packed"][1:])
    stage1 = parse(T2IConfig, runner.commands["stage1"][1:])
    assert stage1.packed_data == [packing.packed_path] == [str(packed)]
    assert not stage1.has_lists and not stage1.cache_codes
    assert (packing.vq_ckpt, packing.t5_path, packing.image_size) == ("vq.pt", str(tmp_path / "t5"), 72)


def test_stage_1_goes_on_from_earlier_weights_with_their_encoder(tmp_path):
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "config.json").write_text("{}")
    recipe = replace(PLAIN, init="earlier.pt", t5_path=str(tmp_path / "earlier"))
    told = commands(recipe, tmp_path / "run")
    stage1 = parse(T2IConfig, told["stage1"][1:])
    assert stage1.init_gpt_ckpt == "earlier.pt" and not stage1.codebook_init and stage1.warmup_steps == 100
    assert "text_encoder" not in told and (tmp_path / "run" / "t5" / "config.json").read_text() == "{}"


def test_the_flags_of_the_shipped_models_reach_the_recipe(tmp_path):
    for name in ("t2i.pt", "vq.pt"):
        (tmp_path / name).write_bytes(b"")
    flags = ["--own-cell", "--region-orders", "random", "spiral", "--edit-orders", "columns"]
    given = ["--init-gpt-ckpt", str(tmp_path / "t2i.pt"), "--vq-ckpt", str(tmp_path / "vq.pt")]
    recipe = parse(TrainShapes, [*flags, *given, "--t5-path", str(tmp_path)]).recipe()
    assert recipe.own_cell and recipe.region_orders == ("random", "spiral")
    assert recipe.edit_orders == ("columns",) and recipe.init == str(tmp_path / "t2i.pt")
    with pytest.raises(UserError, match="give --vq-ckpt and --t5-path too"):
        TrainShapes(init_gpt_ckpt=str(tmp_path / "t2i.pt"))
    with pytest.raises(UserError, match="--vq-ckpt nowhere.pt does not exist"):
        TrainShapes(vq_ckpt="nowhere.pt")


def test_the_card_says_the_command(tmp_path):
    from runtime.config import dump_config
    from scripts.shapes.finished_run import FinishedRun
    from scripts.shapes.ship import _command

    dump_config(
        TrainShapes(str(tmp_path), num_ranks=2, own_cell=True, edit_orders=["raster", "random"]), tmp_path
    )
    (line,) = _command(FinishedRun(tmp_path, "train_shapes.py"))
    assert line == "python scripts/train_shapes.py --own-cell --edit-orders raster random --num-ranks 2"


def test_the_quickstart_supervises_marks_and_draws_as_the_shipped_models_do(tmp_path):
    from scripts.shapes.quickstart import MODES
    from scripts.shapes.ship import DEFAULTS

    recipe = Quickstart().recipe()
    assert recipe.steps == {"tokenizer": 500, "stage1": 300, "stage2": 550}
    stage2 = parse(EditingConfig, commands(recipe, tmp_path)["stage2"][1:])
    assert stage2.supervise_marks and stage2.mask_dilation == 4
    temperature = MODES["masked"][MODES["masked"].index("--temperature") + 1]
    assert float(temperature) == DEFAULTS["editing"].sampling.temperature == 0.1


def test_the_quickstart_takes_the_ranks_that_it_is_given():
    assert Quickstart().recipe(2).num_ranks == 2
    assert Quickstart(num_ranks=1).recipe(2).num_ranks == 1
