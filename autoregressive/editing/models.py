"""The models of a pipeline: loaded, saved and moved together, and what each does by itself.

Letters: B batch, N cells, T text slots, C caption width.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Self

from autoregressive.adapters.switch import AdapterSwitch
from autoregressive.decoding.engine import Engine
from autoregressive.editing.arguments import as_prompts
from autoregressive.editing.model_folders import About, Defaults, find_files, find_folder, read_config
from autoregressive.editing.pretrained import push_folder, save_pretrained
from autoregressive.editing.token_editor import TokenEditor
from autoregressive.models.gpt import GPT_MODELS, Transformer
from autoregressive.models.weights import load_transformer
from dataset.batches import Text
from dataset.records.images import as_image, image_to_tensor
from language.t5 import DEFAULT_T5, T5Encoder, encode_texts, resolve_t5
from language.text_features import TextFeatures, require_readable, stack_text_features
from runtime.devices import accelerator, autocast, require_device
from runtime.errors import UserError, require_known
from runtime.pictures import to_pixels
from tokenizer.tokenizer_image.vq_model import VQ_MODELS, VQModel, load_vq_model

Picture = Image.Image | np.ndarray | Tensor | str | Path
RECENT = 64
"""Texts and pictures whose features and codes are kept, to be used again."""


class _Recent:
    """The values of the keys that were asked for last; threads may share it."""

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get_all(self, keys: Sequence[Hashable], make: Callable[[list[int]], Sequence[Any]]) -> list[Any]:
        """The value of each key; `make` gets the positions of those that are not known, and gives theirs."""
        with self._lock:
            found = {key: self._values[key] for key in keys if key in self._values}
        missing = {key: index for index, key in enumerate(keys) if key not in found}
        if missing:
            found |= dict(zip(missing, make(list(missing.values())), strict=True))
        with self._lock:
            for key in dict.fromkeys(keys):
                self._values[key] = found[key]
                self._values.move_to_end(key)
            while len(self._values) > RECENT:
                self._values.popitem(last=False)
        return [found[key] for key in keys]

    def __reduce__(self) -> tuple:
        """Copies begin empty: locks are not copied."""
        return _Recent, ()


class EditingModels(AdapterSwitch):
    """Tokenizer, transformer and text encoder that belong together."""

    def __init__(
        self,
        tokenizer: VQModel,
        transformer: Transformer,
        text_encoder: T5Encoder | None,
        *,
        pack: bool = False,
    ) -> None:
        """
        Args:
          text_encoder: None if every text comes as features.
          pack: for a transformer that is not trained, see `Engine`.
        """
        super().__init__(TokenEditor(transformer, pack=pack))
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.defaults = Defaults()
        self.about = About()
        self._offloads, self._moving = False, threading.RLock()
        self._features, self._codes = _Recent(), _Recent()
        self.grid = transformer.config.grid
        self.image_size = self.grid * tokenizer.config.downsampling
        if transformer.config.vocab_size != tokenizer.config.codebook_size:
            raise UserError(
                f"the transformer knows {transformer.config.vocab_size} codes, the tokenizer has "
                f"{tokenizer.config.codebook_size}: they were not trained together"
            )
        if text_encoder is not None and text_encoder.width != transformer.config.caption_dim:
            raise UserError(
                f"the transformer reads text features of width {transformer.config.caption_dim}, the text "
                f"encoder gives {text_encoder.width}; check --t5-path"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For `pickle` and `deepcopy`: locks are not copied."""
        return self.__dict__ | {"_moving": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _moving=threading.RLock())

    @classmethod
    def load(
        cls,
        vq_ckpt: str | Path,
        gpt_ckpt: str | Path,
        t5_path: str | Path | None = None,
        t5_model_type: str = DEFAULT_T5,
        *,
        vq_model: str | None = None,
        gpt_model: str | None = None,
        image_size: int | None = None,
        with_text_encoder: bool = True,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        pack: bool = True,
    ) -> Self:
        """Loads checkpoints, ours or published.

        Args:
          vq_model, gpt_model, image_size: for published files, which do not hold them.
          with_text_encoder: False if every text will come as features.
          device: "cpu", "cuda", "cuda:1", "mps", …
          dtype: of the transformer's weights. `torch.int8` is for decoding alone: linear weights of 8 bits
            (`int8_linear`), all else in float32 on CPUs, in bfloat16 on GPUs.
          pack: False for a transformer that will be trained; on CPUs its weights are packed otherwise
            (`packed_linear`).
        Raises:
          UserError: a file that is missing or of something else, a device that is not here.
        """
        device = require_device(device)
        for name, value, known in (("vq_model", vq_model, VQ_MODELS), ("gpt_model", gpt_model, GPT_MODELS)):
            if value is not None:  # also where the file itself says what it holds
                require_known(name, value, known)
        tokenizer = load_vq_model(vq_ckpt, vq_model, device=device)
        transformer = load_transformer(
            gpt_ckpt, gpt_model=gpt_model, image_size=image_size, downsample=tokenizer.config.downsampling
        )
        max_tokens = transformer.config.cls_token_num
        text_encoder = None
        if with_text_encoder:
            text_encoder = T5Encoder(resolve_t5(t5_path, t5_model_type), device=device, max_tokens=max_tokens)
        if dtype is not torch.int8:
            return cls(tokenizer, transformer.to(device, dtype), text_encoder, pack=pack)
        transformer.to(device, torch.float32 if device.type == "cpu" else torch.bfloat16)
        pipeline = cls(tokenizer, transformer, text_encoder)
        pipeline.engine.quantize()
        return pipeline

    @classmethod
    def from_pretrained(cls, name: str | Path, model: str | None = None, **options: Any) -> Self:
        """Loads a folder that `save_pretrained` made, or one from the hub.

        Args:
          name: a folder, "shapes" for the one that comes with the project, or a hub id such as "user/model".
          model: which of the folder's transformers; its first by default.
          options: `revision` (of a hub model); as in `load` `device`, `dtype`, `with_text_encoder`, and
            `t5_path` for a text encoder in the place of the folder's, or where that has none.
        Raises:
          UserError: no such folder or hub model, or one that is damaged.
        """
        files, defaults, about = find_files(name, model, **options)
        pipeline = cls.load(**files)
        pipeline.defaults, pipeline.about = defaults, about
        return pipeline

    @classmethod
    def all_from_pretrained(cls, name: str | Path, **options: Any) -> dict[str, Self]:
        """All transformers of a folder by their names; they share its tokenizer and its text encoder.

        Args:
          name, options: as in `from_pretrained`.
        Raises:
          UserError: no such folder or hub model, or one that is damaged or has no text encoder.
        """
        folder, pipelines = find_folder(name), {}
        for model in read_config(folder).models:
            first = next(iter(pipelines.values()), None)
            pipeline = cls.from_pretrained(folder, model, **options, with_text_encoder=first is None)
            if first is not None:
                pipeline.tokenizer, pipeline.text_encoder = first.tokenizer, first.text_encoder
            elif pipeline.text_encoder is None:
                raise UserError(f"{folder} has no text encoder: give --t5-path")
            pipelines[model] = pipeline
        slots = [pipeline.transformer.config.cls_token_num for pipeline in pipelines.values()]
        next(iter(pipelines.values())).text_encoder.max_tokens = max(slots)
        return pipelines

    def save_pretrained(
        self, folder: str | Path, model: str = "transformer", *, copy_text_encoder: bool | None = None
    ) -> None:
        """Writes all of it into a folder that `from_pretrained` reads; tokens drawn from it are the same.

        Args:
          folder: made if need be; a folder that holds other models of this tokenizer keeps them.
          model: the transformer's name there.
          copy_text_encoder: with its weights, or its name on the hub only. Default: weights, unless it came
            from the hub's cache, whence others can have it too. A pipeline without one leaves the folder's.
        Raises:
          UserError: other models of the folder use another tokenizer, the hub's name is not known, or an
            adapter is in use that is not merged.
        """
        self._require_plain_weights()
        save_pretrained(self, Path(folder), model, copy_text_encoder=copy_text_encoder)

    def push_to_hub(
        self,
        repo_id: str,
        folder: str | Path,
        *,
        private: bool = False,
        token: str | None = None,
        **options: Any,
    ) -> str:
        """Saves to `folder` (`options` are those of `save_pretrained`), uploads it, returns where it is."""
        self.save_pretrained(folder, **options)
        message = "Upload the editing pipeline"
        return push_folder(Path(folder), repo_id, private=private, message=message, token=token)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves all models to a device, and the transformer's weights to a type; returns the pipeline.

        Raises:
          UserError: no such device here.
        """
        device = None if device is None else require_device(device)
        with self._adapters_aside():
            self.engine.move(device, dtype)
        if device is not None:
            self._offloads = False
            self.tokenizer.to(device)
            if self.text_encoder is not None:
                self.text_encoder.to(device)
        return self

    def enable_model_cpu_offload(self, device: str | torch.device | None = None) -> None:
        """Keeps tokenizer and text encoder in the CPU's memory but while they work; `to` ends it.

        Args:
          device: where all work; by default where the transformer is, or a GPU where that is on the CPU.
        Raises:
          UserError: no such device here.
        """
        if device is None and self.device.type == "cpu":
            device = accelerator()
        self.to(self.device if device is None else device)
        self.tokenizer.to("cpu")
        if self.text_encoder is not None:
            self.text_encoder.to("cpu")
        self._offloads = True

    @contextmanager
    def _working(self, model: VQModel | T5Encoder) -> Iterator[None]:
        """A model on the pipeline's device; alone there, where models are offloaded."""
        if not self._offloads:
            yield
            return
        with self._moving:
            model.to(self.device)
            try:
                yield
            finally:
                model.to("cpu")

    def __repr__(self) -> str:
        config, kind = self.transformer.config, type(self).__name__
        millions = sum(parameter.numel() for parameter in self.transformer.parameters()) / 1e6
        does = (
            "edits with marks"
            if config.mask_in_context
            else "draws"
            if not config.any_order
            else "draws and edits"
        )
        return (
            f"{kind}({does}, {millions:.1f} M parameters, {self.image_size} px, "
            f"{self.grid}x{self.grid} cells, {config.vocab_size} codes, {self.device}"
            f"{', offloads' if self._offloads else ''}"
            f"{f', adapter {self.active_adapter}' if self.active_adapter else ''})"
        )

    @property
    def engine(self) -> Engine:
        """What decodes: `compile_steps` and `release` are its own."""
        return self.token_editor.engine

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def max_text_tokens(self) -> int | None:
        """Tokens of a text that are read, </s> included: no more than the transformer has slots for.

        Models of a folder share a text encoder, and may have fewer slots than it reads. None without one.
        """
        if self.text_encoder is None:
            return None
        return min(self.text_encoder.max_tokens, self.transformer.config.cls_token_num)

    def require_short(self, text: str, name: str = "the text") -> None:
        """Raises `UserError` for a text whose end would not be read; `name` names it there."""
        most = self.max_text_tokens
        if most is not None and (length := self.text_encoder.tokenizer.length(text)) > most:
            raise UserError(f"{name} has {length} tokens, the model reads {most}: shorten it")

    @torch.inference_mode()
    def encode(
        self, images: Sequence[Picture], resampling: Image.Resampling = Image.Resampling.BILINEAR
    ) -> Tensor:
        """Images as in `edit` → (B, N) codes.

        Args:
          resampling: of pictures of another size than the model's, with antialiasing. Bilinear as stage 2 and
            the published MagicBrush sampler; the published Emu Edit sampler alone is bicubic.
        """
        tensors = [image_to_tensor(self.fit(as_image(image), resampling)) for image in images]

        def encoded(missing: list[int]) -> Tensor:
            with self._working(self.tokenizer):
                pixels = torch.stack([tensors[index] for index in missing])
                return self.tokenizer.encode_ids(pixels.to(self.device))

        about = id(self.tokenizer), str(self.device)
        keys = [(*about, sha256(tensor.numpy()).digest()) for tensor in tensors]
        return torch.stack(self._codes.get_all(keys, encoded))

    def fit(
        self, image: Image.Image, resampling: Image.Resampling = Image.Resampling.BILINEAR
    ) -> Image.Image:
        """An RGB image at the model's size, squashed to a square."""
        side = (self.image_size, self.image_size)
        return image if image.size == side else image.resize(side, resampling)

    def encode_texts(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """Strings or features → (B, T, C) and (B, T), left-padded, on the CPU."""
        prompts = as_prompts(texts)
        for number, prompt in enumerate(prompts):
            if isinstance(prompt, TextFeatures):
                require_readable(prompt, self.transformer.config.caption_dim, f"prompt {number}")

        def encoded(missing: list[int]) -> list[TextFeatures]:
            with self._working(self.text_encoder) if self.text_encoder else nullcontext():
                return encode_texts(self.text_encoder, [prompts[index] for index in missing])

        # Features, which are given, have keys that are never asked for again.
        about = id(self.text_encoder), getattr(self.text_encoder, "max_tokens", 0)
        keys = [(*about, prompt) if isinstance(prompt, str) else object() for prompt in prompts]
        features = self._features.get_all(keys, encoded)
        return stack_text_features(features, limit=self.transformer.config.cls_token_num)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> list[Image.Image]:
        """(B, N) codes → RGB images of the model's size.

        In bfloat16 where the transformer's weights are: only pixels are wanted here, codes stay in float32.
        On a CPU one by one: its kernels round otherwise in another batch, which may move a pixel by 1.
        """
        precision = "bf16" if self.transformer.dtype is torch.bfloat16 else "none"
        with self._working(self.tokenizer), autocast(self.device, precision):
            parts = codes.split(1) if self.device.type == "cpu" else (codes,)
            images = torch.cat([self.tokenizer.decode_ids(part.to(self.device)) for part in parts])
        return list(map(Image.fromarray, to_pixels(images)))
