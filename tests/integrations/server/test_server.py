"""The official client edits, draws and streams with the shipped models, over a real socket."""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from PIL import Image
from running_server import (
    SCENE,
    WORDS,
    as_file,
    box,
    opened,
    pixels,
    png,
    running,
    served,
    transparent,
    white,
)

REGION = box(0, 0, 40, 40)


@pytest.fixture(scope="module")
def client() -> OpenAI:
    return running().client()


def edit(client: OpenAI, image: Image.Image = SCENE, *, prompt: str = WORDS, seed: int = 1, **options):
    extra = {"seed": seed} | options.pop("extra_body", {})
    return client.images.edit(image=as_file(image), prompt=prompt, extra_body=extra, **options)


def test_an_edit_is_the_pipelines_and_leaves_the_rest_alone(client):
    answer = edit(client, mask=as_file(transparent(REGION)), model="shapes")
    pipeline = served().queues["editing"].pipeline
    (alone,) = pipeline.edit(SCENE, WORDS, REGION, seeds=1, crop="auto")
    drawn = pixels(answer.data[0].b64_json)
    assert (drawn == np.asarray(alone.image)).all() and (drawn != np.asarray(SCENE)).any()
    outside = ~alone.region.numpy()
    assert outside.any() and (drawn[outside] == np.asarray(SCENE)[outside]).all()
    assert answer.model == "editing" and answer.size == "72x72" and answer.output_format == "png"
    assert answer.lossless and answer.data[0].seed == 1 and answer._request_id.startswith("req_")
    words = pipeline.text_encoder.count_tokens([WORDS])[0]
    assert answer.usage.output_tokens == alone.num_tokens
    assert answer.usage.input_tokens_details.text_tokens == words
    assert answer.usage.total_tokens == words + 81 + alone.num_tokens


def test_both_polarities_give_the_same_picture(client):
    by_opacity = edit(client, mask=as_file(transparent(REGION)))
    encoded = base64.b64encode(png(white(REGION))).decode()
    broken = base64.encodebytes(png(white(REGION))).decode()  # into lines, as command-line tools write it
    for text in (encoded, f"data:image/png;base64,{encoded}", broken):
        by_colour = edit(client, extra_body={"mask_image": text})
        assert by_colour.data[0].b64_json == by_opacity.data[0].b64_json
    assert edit(client, mask=as_file(transparent(~REGION))).data[0].b64_json != by_opacity.data[0].b64_json


def test_without_a_mask_the_model_finds_the_region(client):
    answer = edit(client)
    (alone,) = served().queues["editing"].pipeline.edit(SCENE, WORDS, "auto", seeds=1, crop="auto")
    assert (pixels(answer.data[0].b64_json) == np.asarray(alone.image)).all()
    assert 0 < answer.usage.output_tokens < 40


@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_a_photograph_keeps_its_size_its_transparency_and_its_depth(client, mode):
    draw, size = np.random.default_rng(0), (301, 203)
    if mode == "RGBA":
        source = draw.integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    else:
        source = draw.integers(0, 65536, size[::-1], dtype=np.uint16)
    region = box(100, 50, 160, 120, size)
    answer = edit(client, Image.fromarray(source), mask=as_file(transparent(region)))
    image = opened(answer.data[0].b64_json)
    changed = np.asarray(image) != source
    rows, columns = (changed.any(2) if mode == "RGBA" else changed).nonzero()
    assert image.size == size and image.mode == mode and len(rows) > 1000
    assert rows.min() >= 40 and rows.max() < 130 and columns.min() >= 90 and columns.max() < 170
    if mode == "RGBA":
        assert (np.asarray(image)[..., 3] == source[..., 3]).all()
    assert answer.lossless and not answer.warnings
    flat = edit(
        client, Image.fromarray(source), mask=as_file(transparent(region)), extra_body={"crop": "none"}
    )
    assert opened(flat.data[0].b64_json).mode == "RGB" and not flat.lossless
    assert flat.warnings[0].startswith("image: with crop none it is taken as 8-bit RGB: its ")


def test_several_results_have_seeds_that_give_them_again(client):
    several = edit(client, mask=as_file(transparent(REGION)), n=3, seed=7, extra_body={"temperature": 2})
    assert [one.seed for one in several.data] == [7, 8, 9]
    assert len({one.b64_json for one in several.data}) > 1
    again = edit(client, mask=as_file(transparent(REGION)), seed=9, extra_body={"temperature": 2})
    assert again.data[0].b64_json == several.data[2].b64_json
    told = client.images.edit(image=as_file(SCENE), prompt=WORDS).data[0].seed
    assert told != client.images.edit(image=as_file(SCENE), prompt=WORDS).data[0].seed


@pytest.mark.parametrize(
    ("options", "kind", "lossless"),
    [
        ({"output_format": "webp"}, "WEBP", True),
        ({"output_format": "webp", "output_compression": 50}, "WEBP", False),
        ({"output_format": "jpeg"}, "JPEG", False),
        ({"output_format": "jpeg", "output_compression": 30}, "JPEG", False),
    ],
)
def test_formats_say_whether_they_keep_every_pixel(client, options, kind, lossless):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 72, 3), dtype=np.uint8))
    answer = edit(client, image, mask=as_file(transparent(REGION)), **options)
    result = opened(answer.data[0].b64_json)
    assert result.format == kind and answer.output_format == kind.lower() and answer.lossless is lossless
    outside = np.s_[48:, 48:]
    assert (np.asarray(result)[outside] == np.asarray(image)[outside]).all() == lossless


def test_drawings(client):
    words = "a large red circle at the center"
    answer = client.images.generate(prompt=words, n=2, size="72x72", extra_body={"seed": 3})
    alone = served().queues["t2i"].pipeline.draw(words, seeds=3, num_samples=2)
    for one, image in zip(answer.data, alone, strict=True):
        assert (pixels(one.b64_json) == np.asarray(image)).all()
    assert answer.model == "t2i" and answer.usage.output_tokens == 162
    assert answer.usage.input_tokens_details.image_tokens == 0


def test_a_stream_of_an_edit_shows_it_grow(client):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 72, 3), dtype=np.uint8))
    options = {"mask": as_file(transparent(REGION)), "extra_body": {"guidance_scale": 2}}
    events = list(edit(client, image, stream=True, partial_images=2, **options))
    *partial, last = events
    assert [event.type for event in partial] == ["image_edit.partial_image"] * len(partial)
    assert [event.partial_image_index for event in partial] == list(range(len(partial)))
    assert 1 <= len(partial) <= 2 and last.type == "image_edit.completed"
    whole = edit(client, image, **options)
    assert last.b64_json == whole.data[0].b64_json and last.usage.total_tokens == whole.usage.total_tokens
    source = np.asarray(image)
    numbers = [(pixels(event.b64_json) != source).any(2).sum() for event in events]
    assert 0 < numbers[0] < numbers[-1] and numbers == sorted(numbers)
    free = (pixels(last.b64_json) != source).any(2)
    assert all((pixels(event.b64_json)[48:, 48:] == source[48:, 48:]).all() for event in events)
    assert not free[48:].any() and not free[:, 48:].any()
    (only,) = edit(client, image, stream=True, **options)
    assert only.type == "image_edit.completed" and only.b64_json == last.b64_json


def test_a_stream_of_a_drawing(client):
    words = {"prompt": "a large red circle at the center", "extra_body": {"seed": 3}}
    *partial, last = client.images.generate(stream=True, partial_images=3, **words)
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 3
    assert last.type == "image_generation.completed"
    assert last.b64_json == client.images.generate(**words).data[0].b64_json


def test_words_that_the_model_does_not_know_are_named(client):
    odd = "make the Furry cat, the large red circle blue"
    assert edit(client, prompt=odd).unknown_words == ["furry", "cat"] and edit(client).unknown_words == []
    (*_, last) = client.images.generate(prompt="a dog", stream=True, partial_images=1)
    assert last.unknown_words == ["dog"]


def test_what_is_not_taken_of_pictures_is_told_to_the_client(client):
    stream = io.BytesIO()
    SCENE.save(stream, "PNG", save_all=True, append_images=[SCENE.transpose(Image.Transpose.ROTATE_90)])
    moving = ("moving.png", stream.getvalue(), "image/png")
    told = "image: of its 2 frames the first is taken"
    mask, inks = as_file(transparent(REGION)), io.BytesIO()
    SCENE.convert("CMYK").save(inks, "JPEG")
    told_of_inks = client.images.edit(image=("inks.jpg", inks.getvalue()), prompt=WORDS, mask=mask)
    assert told_of_inks.warnings == ["image: its colours are CMYK, and become RGB"]
    assert not told_of_inks.lossless and edit(client, mask=mask).lossless
    options = {"image": moving, "prompt": WORDS, "mask": mask, "extra_body": {"seed": 1}}
    assert client.images.edit(**options).warnings == [told]
    (*_, last) = client.images.edit(**options, stream=True)
    assert last.warnings == [told] and edit(client, mask=mask).warnings == []


def test_a_16_bit_masks_transparent_value_counts_as_transparency(client):
    """Not as white, which it becomes in a picture."""
    stream, values = io.BytesIO(), np.where(REGION, 30000, 60000).astype(np.uint16)
    Image.fromarray(values).save(stream, "PNG", transparency=30000)
    by_opacity = edit(client, mask=as_file(transparent(REGION)))
    answer = edit(client, mask=("mask.png", stream.getvalue(), "image/png"))
    assert answer.data[0].b64_json == by_opacity.data[0].b64_json
    with pytest.raises(BadRequestError, match="mask_image has transparent pixels"):
        edit(client, extra_body={"mask_image": base64.b64encode(stream.getvalue()).decode()})


def test_a_text_to_image_model_edits_zero_shot(client):
    words = "a large blue circle"
    answer = edit(client, mask=as_file(transparent(REGION)), model="t2i", prompt=words)
    (alone,) = served().queues["t2i"].pipeline.edit(SCENE, words, REGION, seeds=1, crop="auto")
    assert answer.model == "t2i" and (pixels(answer.data[0].b64_json) == np.asarray(alone.image)).all()


def test_models_are_listed(client):
    cards = {card.id: card for card in client.models.list()}
    assert list(cards) == ["editing", "t2i", "shapes"]
    assert cards["editing"].edits and not cards["editing"].draws and cards["t2i"].draws
    assert client.models.retrieve("t2i").size == "72x72"


def test_32_clients_at_once_get_what_each_gets_alone(client):
    def ask(number: int) -> str:
        if number % 4 == 3:
            drawn = client.images.generate(prompt="a small green square", extra_body={"seed": number % 8})
            return drawn.data[0].b64_json
        region = box(0, 0, 24 + 8 * (number % 4), 40)
        return edit(client, mask=as_file(transparent(region)), seed=number % 8).data[0].b64_json

    alone = [ask(number) for number in range(8)]
    with ThreadPoolExecutor(32) as clients:
        together = list(clients.map(ask, range(32)))
    assert together == [alone[number % 8] for number in range(32)]
    assert running().house.num_open == 0


def test_health_metrics_and_description(client):
    edit(client)
    url = running().url
    for path in ("/health", "/health/live", "/health/ready"):
        assert json.load(urllib.request.urlopen(url + path))["status"] == "ok"
    lines = urllib.request.urlopen(f"{url}/metrics").read().decode().splitlines()
    values = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
    assert values['nep_requests_total{route="edits",status="200"}'] >= 1
    assert values['nep_images_total{model="editing",route="edits"}'] >= 1
    assert values["nep_open_requests"] == 0
    paths = json.load(urllib.request.urlopen(f"{url}/openapi.json"))["paths"]
    form = paths["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"image", "mask", "mask_image", "seed"} <= set(form["properties"])
