"""Compares the models with recorded inputs and outputs: the work of check_reference.py."""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from autoregressive.decoding.engine import Engine, place
from autoregressive.decoding.sampling import filtered_probabilities
from autoregressive.decoding.sampling_settings import Sampling
from autoregressive.models.config import ModelConfig
from autoregressive.models.gpt import Transformer, build_gpt
from autoregressive.models.loss import layout_loss
from autoregressive.models.weights import resize_position_table
from autoregressive.sequence.builders import (
    editing_layout,
    editing_prompt,
    infill_prompt,
    t2i_layout,
    t2i_prompt,
)
from autoregressive.sequence.orders import raster_edit_order
from dataset.edit_masks import pool_edit_mask
from dataset.records.masks import load_edit_region
from evaluations.editing.flags import ImageEvalConfig
from evaluations.editing.magicbrush_scores import evaluate_run
from language.caption_cleaning import clean_caption
from runtime.errors import UserError
from tokenizer.tokenizer_image.vq_model import build_vq_model

LOGITS, LOSS, GRADIENT = 2e-5, 1e-5, 1e-4
DEEP_LOGITS = 1e-4  # for models of more than 24 layers
MARKED = ("edit", True), ("edit_nomask", False)


@dataclass(frozen=True)
class Row:
    """One recorded quantity and how far off ours is; `error` and `tolerance` in the unit of `measure`."""

    quantity: str
    error: float
    tolerance: float
    measure: str = "max abs"

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


def max_abs(ours: Tensor, recorded: Tensor) -> float:
    return (ours.float() - recorded.float()).abs().max().item() if ours.shape == recorded.shape else math.inf


def relative(ours: Tensor, recorded: Tensor) -> float:
    return abs(ours.item() - recorded.item()) / max(abs(recorded.item()), 1e-12)


def mismatches(name: str, ours: Tensor, recorded: Tensor, allowed: float = 0) -> Row:
    wrong = (ours != recorded).sum().item() if ours.shape == recorded.shape else math.inf
    return Row(name, wrong, allowed, "wrong of " + str(recorded.numel()))


def load_fill() -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """`fill_` of tests/reference/fill.py: weights from parameter names."""
    path = Path(__file__).resolve().parents[2] / "tests" / "reference" / "fill.py"
    spec = importlib.util.spec_from_file_location("fill", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill_


def filled_model(config: dict, **overrides) -> Transformer:
    """A transformer with the recorded configuration and weights, dropout off."""
    model = Transformer(ModelConfig(**config, **overrides)).eval()
    load_fill()(model.state_dict())
    return model


def gradient_rows(prefix: str, model: Transformer, tensors: dict[str, Tensor]) -> Iterator[Row]:
    for name, parameter in model.named_parameters():
        recorded = tensors.get(f"{prefix}.grad_norm.{name}")
        if recorded is not None:
            yield Row(
                f"{prefix}.grad_norm.{name}", relative(parameter.grad.norm(), recorded), GRADIENT, "relative"
            )


def greedy(model: Transformer, prompt, tensors: dict, orders: Tensor, scale: float) -> Tensor:
    sampling = Sampling(cfg_scale=scale, sample_logits=False, window=1)
    seeds = range(len(orders))
    return Engine(model).generate(prompt, tensors["text"], orders, seeds, sampling).codes


def t2i_rows(config: dict, tensors: dict[str, Tensor]) -> Iterator[Row]:
    """Text-to-image: logits, loss, gradients, greedy codes; `GPT-*` files hold no orders."""
    any_order = "orders" in tensors
    model = filled_model(config, any_order=any_order)
    text_valid, codes = tensors["text_mask"].bool(), tensors["target_codes"]
    raster = torch.arange(codes.shape[1]).expand_as(codes)
    orders = tensors.get("orders", raster)
    layout = t2i_layout(codes, orders, text_valid, tensors["valid"].bool())
    logits = model(layout, tensors["text"])
    loss = layout_loss(logits, layout) / layout.loss_weight.sum().clamp(min=1)
    loss.backward()
    yield Row("t2i.logits", max_abs(logits, tensors["t2i.logits"]), LOGITS)
    yield Row("t2i.loss", relative(loss, tensors["t2i.loss"]), LOSS, "relative")
    yield from gradient_rows("t2i", model, tensors)
    for scale in (1, 3):
        ours = greedy(model, t2i_prompt(raster, text_valid), tensors, raster, scale)
        yield mismatches(f"t2i.greedy.cfg{scale}", ours, tensors[f"t2i.greedy.cfg{scale}"])
    if not any_order:
        return
    seen: list[Tensor] = []
    hook = model.output.register_forward_hook(lambda _module, _inputs, out: seen.append(out[0, -1]))
    ours = greedy(model, t2i_prompt(orders, text_valid), tensors, orders, 1)
    hook.remove()
    everything = torch.full((len(codes),), codes.shape[1])
    recorded = tensors["t2i.anyorder.greedy.cfg1"]
    yield mismatches("t2i.anyorder.greedy.cfg1", place(ours, orders, everything, codes), recorded)
    steps = max_abs(torch.stack(seen), tensors["t2i.anyorder.step_logits.row0"])
    yield Row("t2i.anyorder.step_logits.row0", steps, LOGITS)
    yield from zero_shot_rows(model, tensors)


def zero_shot_rows(model: Transformer, tensors: dict[str, Tensor]) -> Iterator[Row]:
    edit_mask, source = tensors["edit_mask"].bool(), tensors["source_codes"]
    counts = edit_mask.sum(1)
    orders = raster_edit_order(edit_mask)[:, : int(counts.max())]
    prompt = infill_prompt(source, edit_mask, orders, tensors["text_mask"].bool())
    for scale in (1, 3):
        ours = place(greedy(model, prompt, tensors, orders, scale), orders, counts, source)
        yield mismatches(f"zero_shot.greedy.cfg{scale}", ours, tensors[f"zero_shot.greedy.cfg{scale}"])


def edit_rows(config: dict, tensors: dict[str, Tensor]) -> Iterator[Row]:
    """Editing with and without marks: logits, losses, gradients, greedy codes."""
    edit_mask, source = tensors["edit_mask"].bool(), tensors["source_codes"]
    text_valid, vocab = tensors["text_mask"].bool(), config["vocab_size"]
    counts = edit_mask.sum(1)
    orders = raster_edit_order(edit_mask)[:, : int(counts.max())]
    for name, marks in MARKED:
        model = filled_model(config, mask_in_context=marks)
        layout = editing_layout(source, tensors["target_codes"], edit_mask, text_valid, vocab, marks=marks)
        logits = model(layout, tensors["text"])
        (layout_loss(logits, layout) / layout.loss_weight.sum()).backward()
        yield Row(f"{name}.logits", max_abs(logits, tensors[f"{name}.logits"]), LOGITS)
        for prefix, valid in ((name, None), (f"{name}.partial", tensors["valid"].bool())):
            partial = editing_layout(
                source, tensors["target_codes"], edit_mask, text_valid, vocab, marks=marks, sample_valid=valid
            )
            loss = layout_loss(logits, partial) / partial.loss_weight.sum().clamp(min=1)
            yield Row(f"{prefix}.loss", relative(loss, tensors[f"{prefix}.loss"]), LOSS, "relative")
        yield from gradient_rows(name, model, tensors)
        prompt = editing_prompt(source, edit_mask, orders, text_valid, vocab, marks=marks)
        for scale in (1, 3):
            ours = place(greedy(model, prompt, tensors, orders, scale), orders, counts, source)
            yield mismatches(f"{name}.greedy.cfg{scale}", ours, tensors[f"{name}.greedy.cfg{scale}"])


def transformer_rows(config: dict, tensors: dict[str, Tensor]) -> Iterator[Row]:
    yield from t2i_rows(config, tensors)
    if "edit_mask" in tensors:
        yield from edit_rows(config, tensors)


def large_model_rows(config: dict, tensors: dict[str, Tensor]) -> Iterator[Row]:
    """A full-size editing model: loss and a part of the logits."""
    model = filled_model(config, mask_in_context=True)
    text = tensors["text"]
    layout = editing_layout(
        tensors["source_codes"],
        tensors["target_codes"],
        tensors["edit_mask"].bool(),
        torch.ones(text.shape[:2], dtype=torch.bool),
        config["vocab_size"],
    )
    with torch.inference_mode():
        logits = model(layout, text)
        loss = layout_loss(logits, layout) / layout.loss_weight.sum()
    tolerance = DEEP_LOGITS if config["n_layer"] > 24 else LOGITS
    first = tensors["logits_first_256"]
    yield Row("loss", relative(loss, tensors["loss"]), LOSS, "relative")
    yield Row("logits_first_256", max_abs(logits[0, :, : first.shape[1]], first), tolerance)
    yield Row("logits_logsumexp", max_abs(logits[0].logsumexp(-1), tensors["logits_logsumexp"]), tolerance)
    yield mismatches("argmax", logits[0].argmax(-1), tensors["argmax"])


def tokenizer_rows(metadata: dict[str, str], tensors: dict[str, Tensor]) -> Iterator[Row]:
    """A VQ tokenizer: latents, indices, reconstruction, codebook losses."""
    sizes = {k: int(metadata[k]) for k in ("codebook_size", "codebook_embed_dim")}
    model = build_vq_model(metadata["model"], **sizes).eval()
    load_fill()(model.state_dict())
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(F.normalize(model.quantize.embedding.weight, dim=-1))
        image, recorded = tensors["image"], tensors["indices"]
        latents = model.encode(image)
        yield Row("pre_quant", max_abs(latents, tensors["pre_quant"]), 1e-4)
        yield mismatches(
            "indices", model.encode_ids(image), recorded, allowed=max(recorded.numel() // 128, 1)
        )
        reconstruction = model.decode_ids(recorded)
        yield Row("reconstruction", max_abs(reconstruction, tensors["reconstruction"]), 1e-4)
        quantized = model.quantize(latents)[0]
        yield Row("quantized", max_abs(quantized, tensors["quantized"]), 1e-4)
        model.train()
        output = model(image)
        yield Row("vq_loss", relative(output.codebook_loss, tensors["vq_loss"]), LOSS, "relative")
        commit = 0.25 * output.commitment_loss
        yield Row("commit_loss", relative(commit, tensors["commit_loss"]), LOSS, "relative")


def table_resize_rows(tensors: dict[str, Tensor]) -> Iterator[Row]:
    before, after = sorted(tensors, key=lambda n: tensors[n].shape[1])
    ours = resize_position_table(tensors[before], tensors[after].shape[1])
    yield Row(f"{before} -> {after}", max_abs(ours, tensors[after]), LOGITS)


def sampling_rows(tensors: dict[str, Tensor]) -> Iterator[Row]:
    for name in sorted(tensors):
        if name.startswith("probs."):
            top_k, top_p = name.removeprefix("probs.k").split(".p", 1)
            ours = filtered_probabilities(tensors["logits"], 1.0, int(top_k), float(top_p))
            yield Row(name, max_abs(ours, tensors[name]), 1e-6)


def safetensors_rows(path: Path, full: bool) -> Iterator[Row]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    config = json.loads(metadata.get("config", "{}"))
    if "t2i.logits" in tensors:
        yield from transformer_rows(config, tensors)
    elif "logits_first_256" in tensors:
        if full:
            yield from large_model_rows(config, tensors)
        else:
            print(f"{path.name}: left out, {config['n_layer']} layers of {config['dim']}; add --full")
    elif "pre_quant" in tensors:
        yield from tokenizer_rows(metadata, tensors)
    elif any(name.startswith("probs.") for name in tensors):
        yield from sampling_rows(tensors)
    elif len(tensors) == 2 and all(name.startswith("table_") for name in tensors):
        yield from table_resize_rows(tensors)
    else:
        raise UserError(f"{path} holds {sorted(tensors)[:4]} …, which is no recorded kind")


def caption_rows(items: list[dict[str, str]]) -> Iterator[Row]:
    wrong = [i["text"] for i in items if clean_caption(i["text"]) != i["cleaned"]]
    yield Row(
        f"captions cleaned{f', not {wrong[0]!r}' if wrong else ''}", len(wrong), 0, f"wrong of {len(items)}"
    )


def manifest_rows(manifests: dict[str, dict[str, list[int]]]) -> Iterator[Row]:
    """Names and shapes of the published models, e.g. `R-GPT-XL@512+mask_in_context` or `VQ-16`."""
    for title, recorded in manifests.items():
        name, _, rest = title.partition("@")
        with torch.device("meta"):
            if name.startswith("VQ"):
                model = build_vq_model(name)
            else:
                size, _, extra = rest.partition("+")
                cells = (int(size) // 16) ** 2
                model = build_gpt(name, block_size=cells, mask_in_context=extra == "mask_in_context")
        ours = {n: list(t.shape) for n, t in model.state_dict().items()}
        different = {n for n in ours.keys() | recorded.keys() if ours.get(n) != recorded.get(n)}
        yield Row(title, len(different), 0, f"wrong of {len(recorded)}")


def mask_rows(folder: Path, expected: dict[str, dict[str, list[int]]]) -> Iterator[Row]:
    for name, grids in expected.items():
        mask = load_edit_region(folder / name)[None]
        for grid, cells in grids.items():
            ours = pool_edit_mask(mask, int(grid.split("x")[0]), "published").nonzero().flatten().tolist()
            yield Row(f"{name} {grid}", len(set(ours) ^ set(cells)), 0, f"wrong of {len(cells)}")


def magicbrush_rows(folder: Path, expected: dict) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scores:
        ours = evaluate_run(
            ImageEvalConfig(
                generated_path=[str(folder / "generated")],
                gt_path=str(folder / "gt"),
                caption_path=str(folder / "local_descriptions.json"),
                metric="l1,l2",
                save_path=scores,
            )
        )
    for recorded_key, key in (("single_turn", "all_turn"), ("multi_turn", "final_turn")):
        for metric, value in expected[recorded_key].items():
            yield Row(f"{key}.{metric}", abs(ours[key][metric] - value), 1e-9)


def json_rows(path: Path) -> Iterator[Row]:
    content = json.loads(path.read_text())
    if isinstance(content, list) and content and "cleaned" in content[0]:
        yield from caption_rows(content)
    elif "single_turn_pairs" in content:
        yield from magicbrush_rows(path.parent, content)
    elif path.name == "expected.json":
        yield from mask_rows(path.parent, content)
    elif all(isinstance(v, dict) and all(isinstance(s, list) for s in v.values()) for v in content.values()):
        yield from manifest_rows(content)


def check(folder: Path, full: bool) -> bool:
    """Prints the table; True if every row is within its tolerance."""
    paths = sorted(folder.rglob("*.safetensors")) + sorted(folder.rglob("*.json"))
    if not paths:
        raise UserError(
            f"{folder} holds no .safetensors and no .json; give the folder of recorded references"
        )
    print(f"{'file':40} {'quantity':52} {'error':>10} {'tolerance':>10}  measure        ok")
    bad = total = 0
    for path in paths:
        rows = safetensors_rows(path, full) if path.suffix == ".safetensors" else json_rows(path)
        for row in rows:
            total, bad = total + 1, bad + (not row.ok)
            print(
                f"{str(path.relative_to(folder)):40} {row.quantity:52} {row.error:10.2e} "
                f"{row.tolerance:10.2e}  {row.measure:14} {'ok' if row.ok else 'WRONG'}",
                flush=True,
            )
    print(f"{total - bad} of {total} quantities agree")
    return bad == 0 and total > 0
