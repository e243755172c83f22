"""Requests that ask for an adapter by its name, over a real socket."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from adapter_files import write_trained_adapter
from conftest import ROOT
from running_server import SCENE, WORDS, as_file, box, pixels, running, served, transparent

from integrations.server.config import Serve
from integrations.server.served import load_adapters
from runtime.errors import UserError

REGION = box(0, 0, 40, 40)
NAMES = ("rough", "rougher")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder, editor = (
        tmp_path_factory.mktemp("adapters"),
        ROOT / "pretrained_models/shapes/editing.safetensors",
    )
    pipelines = {name: queue.pipeline for name, queue in served().queues.items()}
    places = {
        name: str(write_trained_adapter(folder / f"{name}.pt", editor, seed=seed, rank=4, change=0.3))
        for seed, name in enumerate(NAMES)
    }
    load_adapters(pipelines, places)
    yield running().client()
    for name in NAMES:
        pipelines["editing"].delete_adapter(name)


def edit(client, adapter: str | None = None, seed: int = 1, **options) -> np.ndarray:
    extra = {"seed": seed} | ({"adapter": adapter} if adapter else {})
    mask = as_file(transparent(REGION))
    answer = client.images.edit(image=as_file(SCENE), prompt=WORDS, mask=mask, extra_body=extra, **options)
    return pixels(answer.data[0].b64_json)


def test_models_list_their_adapters(client):
    cards = {card.id: card.adapters for card in client.models.list()}
    assert cards == {"editing": list(NAMES), "t2i": [], "shapes": list(NAMES)}


def test_each_request_gets_its_own_adapter(client):
    pipeline = served().queues["editing"].pipeline
    asked = [(name, seed) for seed in range(3) for name in (None, *NAMES)]
    with ThreadPoolExecutor(len(asked)) as clients:
        together = list(clients.map(lambda ask: edit(client, *ask), asked))
    for (name, seed), drawn in zip(asked, together, strict=True):
        alone = pipeline.with_adapter(name).edit(SCENE, WORDS, REGION, seeds=seed, crop="auto")[0]
        assert (drawn == np.asarray(alone.image)).all()
    assert len({drawn.tobytes() for drawn in together[:3]}) == 3


def test_adapters_that_are_not_there(client):
    for options, words in [({}, "there are rough, rougher"), ({"model": "t2i"}, "it has none")]:
        with pytest.raises(openai.BadRequestError, match=f"has no adapter 'smooth'; {words}") as refused:
            edit(client, "smooth", **options)
        assert refused.value.param == "adapter" and refused.value.code == "adapter_not_found"


def test_flags_name_adapters(tmp_path):
    assert Serve(adapter=["a=x", "b=y=z"]).adapters() == {"a": "x", "b": "y=z"}
    for words, message in [(["a"], "give NAME=FOLDER"), (["a=x", "a=y"], "two are called a: x and y")]:
        with pytest.raises(UserError, match=message):
            Serve(adapter=words)
    pipelines = {name: queue.pipeline for name, queue in served().queues.items()}
    with pytest.raises(UserError, match="does not exist"):
        load_adapters(pipelines, {"a": str(tmp_path / "nowhere")})
