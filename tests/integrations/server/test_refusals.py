"""What a server refuses: with which status, in OpenAI's shape, and with which words."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import json
import threading
import time

import numpy as np
import openai
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from running_server import SCENE, WORDS, Running, as_file, box, png, running, served, transparent, white

from autoregressive.editing.pipeline import EditingPipeline

REGION = box(0, 0, 40, 40)
MASK = as_file(transparent(REGION))


def edit(client, image=SCENE, **options):
    options = {"prompt": WORDS, "mask": MASK} | options
    return client.images.edit(image=as_file(image) if isinstance(image, Image.Image) else image, **options)


def post(url: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict, dict]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), dict(answer.getheaders())


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"mask": as_file(transparent(box(0, 0, 0, 0)))}, "mask", "protects every pixel"),
        ({"mask": as_file(transparent(box(0, 0, 9, 9, (64, 64))))}, "mask", "is 64x64, the image 72x72"),
        ({"mask": as_file(white(REGION))}, "mask", "no transparency.*goes into the field mask_image"),
        ({"mask": ("mask.png", b"no picture")}, "mask", "not an image of a known format"),
        ({"extra_body": {"mask_image": "aGVsbG8="}}, "mask_image", "both mask and mask_image"),
        ({"image": ("picture.png", b"no picture")}, "image", "not an image of a known format"),
        ({"image": ("picture.png", png(SCENE)[:900])}, "image", "cannot be read as an image"),
        ({"image": [as_file(SCENE), as_file(SCENE)]}, "image", "one picture is edited at a time"),
        ({"prompt": " "}, "prompt", "the text is empty"),
        ({"prompt": "x" * 4001}, "prompt", "4000 characters"),
        ({"prompt": "star " * 400}, "prompt", "prompt has 401 tokens, the model reads 120"),
        ({"n": 11}, "n", "from 1 to 10"),
        ({"n": 2, "stream": True}, "n", "a stream shows one result"),
        ({"partial_images": 1}, "partial_images", "with stream alone"),
        ({"stream": True, "partial_images": 4}, "partial_images", "from 0 to 3"),
        ({"size": "1024x1024"}, "size", "72x72; give auto"),
        ({"quality": "high"}, "quality", "there is one quality"),
        ({"background": "transparent"}, "background", "cannot be honoured"),
        ({"response_format": "url"}, "response_format", "ask for b64_json"),
        ({"output_compression": 10}, "output_compression", "png loses nothing"),
        ({"output_format": "tiff"}, "output_format", "one of png, jpeg, webp"),
        ({"extra_body": {"sead": 1}}, "sead", "did you mean seed"),
        ({"extra_body": {"seed": 1.5}}, "seed", "a whole number"),
        ({"extra_body": {"seed": -1}}, "seed", "from 0"),
        ({"extra_body": {"guidance_scale": "nan"}}, "guidance_scale", "a finite number"),
        ({"extra_body": {"temperature": "hot"}}, "temperature", "give a number"),
        ({"extra_body": {"negative_prompt": "red"}}, "negative_prompt", "cannot be honoured"),
        ({"extra_body": {"crop": "middle"}}, "crop", "one of"),
    ],
)
def test_bad_requests(options, param, words):
    image = options.pop("image", SCENE)
    with pytest.raises(openai.BadRequestError, match=f"(?s){words}") as refused:
        list(edit(running().client(), image, **options))
    assert refused.value.param == param and refused.value.type == "invalid_request_error"


def test_a_prompt_is_as_long_as_the_model_that_is_asked_reads(monkeypatch):
    """Models of a folder share a text encoder; one of them may have fewer slots."""
    transformer = served().queues["t2i"].pipeline.transformer
    monkeypatch.setattr(transformer, "config", dataclasses.replace(transformer.config, cls_token_num=8))
    client, words = running().client(), "a large red circle at the center please"
    with pytest.raises(openai.BadRequestError, match="prompt has 9 tokens, the model reads 8") as refused:
        client.images.generate(prompt=words)
    assert refused.value.param == "prompt"
    assert client.images.generate(prompt=words.removesuffix(" please")).data[0].b64_json
    assert edit(client, prompt=words).data[0].b64_json, "the editor reads more"


def test_masks_of_the_other_polarity_are_never_guessed():
    client = running().client()
    for mask, words in [
        (transparent(REGION), "mask_image has transparent pixels"),
        (white(box(0, 0, 0, 0)), "mask_image protects every pixel.*white"),
        (Image.fromarray(REGION.astype(np.uint8)), "multiply it by 255"),
    ]:
        given = {"mask_image": base64.b64encode(png(mask)).decode()}
        with pytest.raises(openai.BadRequestError, match=words):
            client.images.edit(image=as_file(SCENE), prompt=WORDS, extra_body=given)


def test_what_a_model_cannot_do():
    client = running().client()
    with pytest.raises(openai.BadRequestError, match="'t2i' cannot find the region by itself"):
        client.images.edit(image=as_file(SCENE), prompt=WORDS, model="t2i")
    with pytest.raises(openai.BadRequestError, match="none that draws from text alone; t2i does"):
        client.images.generate(prompt="a red circle", model="editing")
    with pytest.raises(openai.BadRequestError, match="draws 72x72"):
        client.images.generate(prompt="a red circle", size="1024x1024")
    with pytest.raises(openai.NotFoundError, match="'dall-e-2' does not exist here") as refused:
        client.images.generate(prompt="a red circle", model="dall-e-2")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="'other' does not exist"):
        client.models.retrieve("other")
    picture = Image.fromarray(np.zeros((72, 72, 4), np.uint8))
    with pytest.raises(openai.BadRequestError, match="no place for the picture's transparency; ask for png"):
        edit(client, picture, output_format="jpeg")


def test_other_bodies_and_routes():
    url, kind = running().url, {"content-type": "application/json"}
    for path, body, headers, status, words in [
        ("/v1/images/generations", b"{", kind, 400, "no JSON"),
        ("/v1/images/generations", b"[" * 100_000, kind, 400, "no JSON"),
        ("/v1/images/generations", b"[]", kind, 400, "a JSON object"),
        ("/v1/images/generations", b'{"prompt": ["a"]}', kind, 400, "prompt: give a text"),
        ("/v1/images/generations", b'{"prompt": "red", "n": true}', kind, 400, "n 'True'"),
        ("/v1/images/generations", b'{"prompt": "red", "seed": 1e999}', kind, 400, "finite"),
        ("/v1/images/generations", b'{"prompt": "red", "model": {}}', kind, 400, "model '{}'"),
        ("/v1/images/edits", b"{}", kind, 400, "multipart/form-data"),
        ("/v1/images/edits", b"x", {"content-type": "multipart/form-data"}, 400, "form cannot be read"),
        (
            "/v1/images/edits",
            b"--x--",
            {"content-type": "multipart/form-data; boundary=x"},
            400,
            "is required",
        ),
        ("/v1/images/variations", b"", {}, 404, "Not Found"),
        ("/v1/models", b"", {}, 405, "Method Not Allowed"),
    ]:
        ended, content, _ = post(url, path, body, headers)
        assert ended == status and words in content["error"]["message"], content
        assert set(content["error"]) == {"message", "type", "param", "code"}


def test_keys():
    server = running(api_key="secret")
    with pytest.raises(openai.AuthenticationError, match="API key") as refused:
        server.client(api_key="secre").models.list()
    assert refused.value.code == "invalid_api_key"
    for value in ("Bearer geh\xebim", "Basic secret", "secret", ""):
        assert post(server.url, "/v1/images/edits", b"", {"authorization": value})[0] == 401
    assert len(server.client().models.list().data) == 3
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    for path, status in (("/health", 200), ("/metrics", 401), ("/v1/models", 401), ("/openapi.json", 401)):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status, path


def test_too_many_bytes_and_pixels(monkeypatch):
    server = running(max_bytes=50_000, max_pixels=20_000)
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    with pytest.raises(openai.APIStatusError, match="50000 bytes") as refused:
        edit(server.client(), large)
    assert refused.value.status_code == 413 and refused.value.code == "request_too_large"
    chunks = (b"x" * 10_000 for _ in range(8))  # without a content-length
    headers = {"content-type": "application/json"}
    assert post(server.url, "/v1/images/generations", chunks, headers)[0] == 413
    bomb = ("bomb.png", png(Image.new("L", (5000, 4000))))
    with monkeypatch.context() as no_decoder:
        no_decoder.setattr(PngImageFile, "load", lambda image: pytest.fail("decoded"))
        with pytest.raises(openai.BadRequestError, match="5000x4000 is above the limit of 0.02 megapixels"):
            edit(server.client(), bomb)
    with pytest.raises(openai.BadRequestError, match="72x72 is above the limit.* with n=8"):
        edit(server.client(), n=8)
    with pytest.raises(openai.BadRequestError, match="n 8: that many have more than 20000 pixels"):
        server.client().images.generate(prompt="a red circle", n=8)


@pytest.fixture
def held(monkeypatch):
    """Edits that wait until the event is set; says when one has begun."""
    begun, go_on, draw = threading.Event(), threading.Event(), EditingPipeline.decode

    def decode(self, codes):
        begun.set()
        assert go_on.wait(60)
        return draw(self, codes)

    monkeypatch.setattr(EditingPipeline, "decode", decode)
    yield begun, go_on
    go_on.set()


def test_a_full_queue_and_a_stopping_server(held):
    begun, go_on = held
    server, answers = Running(max_waiting=1), []
    first = threading.Thread(target=lambda: answers.append(edit(server.client())))
    first.start()
    assert begun.wait(60)
    with pytest.raises(openai.RateLimitError, match="1 requests are open") as refused:
        edit(server.client())
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
    server.state.stopping = True
    with pytest.raises(openai.InternalServerError, match="is stopping") as refused:
        edit(server.client())
    assert refused.value.status_code == 503 and refused.value.code == "shutting_down"
    assert http_status(server.url, "/health/ready") == 503 and http_status(server.url, "/health/live") == 200
    go_on.set()
    first.join(60)
    assert answers[0].data[0].b64_json


def http_status(url: str, path: str) -> int:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", path)
    return connection.getresponse().status


@pytest.mark.parametrize("stream", [False, True])
def test_too_slow_is_told_and_cancelled(held, stream):
    server = running(max_seconds=0.5)
    with pytest.raises(openai.InternalServerError, match="within 0.5 seconds") as refused:
        list(edit(server.client(max_retries=2), stream=stream))
    assert refused.value.status_code == 504 and refused.value.code == "timeout"
    held[1].set()
    wait_until(lambda: served().queues["editing"].num_open == 0)


def test_who_hangs_up_is_not_drawn_for(monkeypatch):
    """The passes end, and the place in the queue is free."""
    begun, go_on, passes, engine = (
        threading.Event(),
        threading.Event(),
        [],
        served().queues["t2i"].pipeline.engine,
    )
    step = engine.step

    def counted(*arguments):
        passes.append(1)
        begun.set()
        assert go_on.wait(60)
        return step(*arguments)

    monkeypatch.setattr(engine, "step", counted)
    server = running()
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    body = json.dumps({"prompt": "a small green square", "temperature": 50})
    connection.request("POST", "/v1/images/generations", body, {"content-type": "application/json"})
    assert begun.wait(60)
    connection.close()
    wait_until(lambda: server.state.num_open == 0)
    go_on.set()
    wait_until(lambda: served().queues["t2i"].num_open == 0)
    assert len(passes) <= 2


def test_a_failure_of_the_server_is_logged_and_told_without_details(monkeypatch, capfd):
    server = running()

    def broken(self, codes):
        raise RuntimeError("at the core")

    monkeypatch.setattr(EditingPipeline, "decode", broken)
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="its log says how, under my-id") as refused:
            list(edit(server.client(), stream=stream, extra_headers={"X-Request-ID": "my-id"}))
        assert refused.value.status_code == 500 and "core" not in str(refused.value)
    logged = capfd.readouterr().err
    assert "at the core" in logged and "my-id /v1/images/edits 500" in logged and WORDS not in logged


def wait_until(is_so, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)
