"""The published command lines: each flag in both spellings, with its effect or a line saying why not."""

from __future__ import annotations

import dataclasses
import importlib
import shlex

import pytest

from runtime.config import parse
from runtime.errors import UserError

STAGE_1 = """--vq-ckpt ./pretrained_models/vq_ds16_t2i.pt --data-paths a.jsonl b.jsonl --init-gpt-ckpt
 pretrained_models/t2i_XL_stage1_256.pt --results-dir R --ckpt-every 10000 --max_checkpoints 3 --image-size
 256 --gpt-model R-GPT-XL --global-batch-size 360 --epochs 2 --lr 1e-4"""
STAGE_2 = """--vq-ckpt ./pretrained_models/vq_ds16_t2i.pt --data-path ultraedit.jsonl --dataset
 editing_ultraedit --init-gpt-ckpt RLlamaGen.pt --results-dir R --image-size 256 --gpt-model R-GPT-XL
 --mask_in_context --global-batch-size 16 --epochs 10 --lr 1e-4 --validate_every -1 --ckpt-every 10000"""
STAGE_512 = """--vq-ckpt ./pretrained_models/vq_ds16_t2i.pt --data-path ultraedit.jsonl --dataset
 editing_ultraedit --init-gpt-ckpt NEP_256.pt --results-dir R --ckpt-every 2000 --no_epoch_save
 --image-size 512 --gpt-model GPT-XL-RAR --mask_in_context --global-batch-size 16 --epochs 1 --lr 1e-5
 --val_dataset magicbrush,emuedit_test --validate_every 2000 --magicbrush_json
 edit_sessions_with_instruction_t5.json --with_t5_prompt --magicbrush_input_path test/images --gt_path
 test/images --caption_path test/local_descriptions.json --emu_data_file emu_edit_test_set/data
 --valid_emuedit_test_data assets/emu_test_data.json --emuedit_gt_path images_valid --emuedit_caption_path
 assets/emu_test_data.json --enforce_emu_validation_fake_masking --val-global-batch-size 16 --early-stop
 2001"""

TRAIN = """--data-path d.jsonl --cloud-save-path c --no-local-save --vq-ckpt v.pt --vq-model VQ-8
 --codebook-size 512 --codebook-embed-dim 4 --gpt-ckpt g.pt --gpt-type c2i --vocab-size 512 --cls-token-num
 60 --dropout-p 0.2 --token-dropout-p 0.3 --drop-path 0.1 --downsample-size 8 --num-classes 10
 --weight-decay 0.1 --beta1 0.8 --beta2 0.9 --max-grad-norm 2 --global-seed 7 --num-workers 3 --log-every 9
 --gradient-accumulation-steps 2 --mixed-precision fp16 --cfg-scale 3 --top-k 5 --top-p 0.5 --temperature
 0.7 --early-stop 3 --t5-feat-path f --short-t5-feat-path s"""
LLAMAGEN = """--vq-ckpt v.pt --data-path lists --t5-feat-path f --short-t5-feat-path s --dataset t2i
 --image-size 512 --no-compile --cloud-save-path c --gpt-model GPT-XL"""
EDITING = """--no-cloud-save --precision bf16 --t5-path t --t5-model-type small --t5-feature-max-len 50
 --t5_feature_dim 64 --no-left-padding --set_max_len --center_crop --random_flip --lr_scheduler_annealing
 linear --final_div_factor 10 --pct_start 0.2 --enforce_fake_masking --fake_masking
 --enforce_validation_fake_masking --magicbrush_skip_iter --instruction_based --metric l1 --emuedit_metric
 l2 --load_data_type parquet --prepare_dataset"""
EVALUATOR = """--generated_path g --gt_path t --caption_path c.json --metric l1,dino --save_path s
 --device cpu --num_workers 3"""
T2I_EVALUATION = """--fake_dir f --ref_dir r --ref_data coco2014 --ref_type val2014 --how_many 9
 --clip_model4eval ViT-G/14 --eval_res 128 --batch_size 3 --eval_bottom 64 --device cpu"""
FEATURES = """--data-path d --t5-path o --data-start 1 --data-end 2 --caption-key llava --trunc-caption
 --t5-model-path m --t5-model-type small --precision fp16 --global-seed 1 --num-workers 2"""
CODES = """--data-path d --code-path c --data-start 1 --data-end 2 --vq-model VQ-8 --vq-ckpt v.pt
 --codebook-size 512 --codebook-embed-dim 4 --image-size 256 --global-seed 1 --num-workers 2"""
DRAW = """--t5-path t --t5-model-type small --t5-feature-max-len 100 --t5-feature-dim 64 --no-left-padding
 --gpt-model GPT-B --gpt-ckpt g.pt --gpt-type t2i --cls-token-num 60 --precision fp16 --compile
 --vq-model VQ-8 --vq-ckpt v.pt --codebook-size 512 --codebook-embed-dim 4 --image-size 384
 --downsample-size 8 --num-classes 10 --cfg-scale 3 --top-k 5 --temperature 0.5 --top-p 0.9"""
COCO = f"{DRAW} --prompt-csv p.tsv --sample-dir s --per-proc-batch-size 4 --num-fid-samples 9 --global-seed 1"
PROGRAMS = {
    ("autoregressive.train.config", "T2IConfig"): [STAGE_1, TRAIN + " --eval_order_version_id 2", LLAMAGEN],
    ("autoregressive.train.config", "EditingConfig"): [STAGE_2, STAGE_512, f"{TRAIN} {EDITING}"],
    ("evaluations.editing.image_eval", "ImageEvalConfig"): [EVALUATOR],
    ("evaluations.editing.emuedit_eval", "EmuEvalConfig"): [EVALUATOR],
    ("evaluations.t2i.evaluation", "T2IEvalConfig"): [T2I_EVALUATION],
    ("language.extract_t5_feature", "ExtractConfig"): [FEATURES],
    ("autoregressive.train.extract_codes_t2i", "ExtractCodesConfig"): [CODES],
    ("autoregressive.sample.flags", "SampleT2IDDP"): [COCO],
    ("autoregressive.sample.flags", "SampleT2I"): [f"{DRAW} --seed 1"],
}
# What the flags mean here goes by these names.
RENAMED = {
    "early_stop": "max_steps",
    "data_paths": "data_path",
    ("ExtractConfig", "t5_path"): "output_dir",
    ("SampleT2IDDP", "per_proc_batch_size"): "batch_size",
    ("SampleT2IDDP", "global_seed"): "seed",
}


def flags_of(command: str) -> list[list[str]]:
    """The command's flags, each with its values."""
    groups: list[list[str]] = []
    for word in shlex.split(command):
        if word.startswith("--"):
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


COMMANDS = [
    pytest.param(module, name, command, id=f"{name}-{i}")
    for (module, name), commands in PROGRAMS.items()
    for i, command in enumerate(commands)
]


@pytest.mark.parametrize(("module", "name", "command"), COMMANDS)
def test_every_flag_in_both_spellings_has_its_effect_or_says_why_not(module, name, command, capsys):
    config_class = getattr(importlib.import_module(module), name)
    configs = []
    for dash in "-_":
        words = [
            "--" + word[2:].replace("-", dash).replace("_", dash) if word.startswith("--") else word
            for word in shlex.split(command)
        ]
        configs.append(parse(config_class, words))
    assert configs[0] == configs[1]
    notes = capsys.readouterr().err
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    for flag, *values in flags_of(command):
        field_name = flag[2:].replace("-", "_")
        field_name = RENAMED.get((name, field_name), RENAMED.get(field_name, field_name))
        if "legacy" in fields[field_name].metadata:
            assert f"--{field_name.replace('_', '-')} has no effect: " in notes
            continue
        got = getattr(configs[0], field_name)
        shown = got if isinstance(got, list) else [] if got is True else [got]
        assert [type(g)(v) for g, v in zip(shown, values, strict=True)] == shown, flag


def test_missing_inputs_are_named():
    from autoregressive.train.config import EditingConfig, T2IConfig

    with pytest.raises(UserError, match="--data-path is missing"):
        parse(T2IConfig, [])
    start = ["--data-path", "d.jsonl", "--vq-ckpt", "v.pt", "--validate_every", "5"]
    with pytest.raises(UserError, match="--val_dataset magicbrush .* needs --magicbrush_json, "):
        parse(EditingConfig, start)
    with pytest.raises(UserError, match="--val_dataset 'coco'"):
        parse(EditingConfig, [*start, "--val_dataset", "coco"])


def test_a_one_cycle_shape_chooses_the_one_cycle_schedule():
    from autoregressive.train.config import T2IConfig

    start = ["--data-path", "d.jsonl", "--vq-ckpt", "v.pt"]
    assert parse(T2IConfig, start).schedule == "constant"
    assert parse(T2IConfig, [*start, "--lr_scheduler_annealing", "cos"]).schedule == "onecycle"
    shape = [*start, "--lr_scheduler_annealing", "linear"]
    with pytest.raises(UserError, match="--lr-scheduler-annealing linear is the shape of the one-cycle"):
        parse(T2IConfig, [*shape, "--lr-scheduler", "cosine"])
    with pytest.raises(UserError, match="--warmup-steps 100 is for constant and cosine"):
        parse(T2IConfig, [*shape, "--warmup-steps", "100"])
