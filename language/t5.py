"""The frozen text encoder: captions in, `TextFeatures` out.

The published models use FLAN-T5-XL. Any T5 saved by transformers works, so the small one of
`language.small_encoder` takes exactly this path.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import Tensor

from language.caption_cleaning import clean_caption
from language.published import DEFAULT_T5, MAX_TOKENS, PUBLISHED_FOLDER
from language.text_features import TextFeatures
from runtime.checkpoint import weights_fingerprint
from runtime.errors import UserError
from runtime.files import require_regular
from runtime.logging import get_logger
from runtime.tensor_fields import TensorFields

if TYPE_CHECKING:  # seconds, which programs that read features ready-made do without
    from transformers import BatchEncoding, PreTrainedTokenizerBase, T5EncoderModel

TRUNCATION_LOG = "t5.truncation"
"""Logger of the notices of cut captions, for programs to silence: one a batch would drown a progress bar."""
ROWS = 32
"""Texts of one forward pass, where nothing else is asked for."""
_ON_THE_HUB = tuple(f"flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl"))  # Google's
_CONFIG_FILES = ("config.json", "tokenizer_config.json")
_MOST_NAMED = 8  # unknown words in one sentence
_TOKENIZING = threading.Lock()  # fast tokenizers refuse a second thread ("Already borrowed")


def resolve_t5(t5_path: str | Path | None, t5_model_type: str = DEFAULT_T5) -> str:
    """Finds a text encoder without the network.

    Args:
      t5_path: folder that holds model folders, or itself a model folder; None looks in the published place,
        `pretrained_models/t5-ckpt`, then in the hub cache.
      t5_model_type: name of a folder in `t5_path`, or of a model on the hub ("google/" is put before a bare
        name; a folder may be called with it or without).
    Returns:
      A model folder, or a hub id whose files are in the user's cache.
    Raises:
      UserError: saying which files to put where.
    """
    root = PUBLISHED_FOLDER if t5_path is None else Path(t5_path)
    target = root / t5_model_type.removeprefix("google/")
    for folder in (root / t5_model_type, target, root):
        if (folder / "config.json").is_file():
            return str(folder)
    hub_id = t5_model_type if "/" in t5_model_type else f"google/{t5_model_type}"
    with suppress(HFValidationError):  # no name that the hub could have
        if isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
            return hub_id
    raise UserError(
        f"no text encoder {t5_model_type!r}: {target} holds no config.json, "
        f"and {hub_id} is not in the hub cache. "
        f"Run `hf download {hub_id} --local-dir {target}`; without network, copy a folder made that way "
        "(config.json, the tokenizer's files, *.safetensors) from another machine"
    )


@dataclass(frozen=True)
class TokenizedTexts(TensorFields):
    """R texts in tokens, padded at the right to W of them."""

    ids: Tensor
    """(R, W) int64."""
    mask: Tensor
    """(R, W) int64, 0 where padding stands."""
    kept: Tensor
    """(M,) which of the R·W places are no padding."""

    def counts(self) -> Tensor:
        """(R,) tokens of each text."""
        return self.mask.sum(1)


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


class T5Tokenizer:
    """What turns words into tokens: the caption cleaning, then the tokenizer, in any process.

    Attributes:
      pretrained: the tokenizer as transformers loads it.
      max_tokens: longest text in tokens, the final </s> included.
    """

    def __init__(self, pretrained: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.pretrained, self.max_tokens = pretrained, max_tokens
        self._num_emptied = 0

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """A text longer than `max_tokens` loses its end (</s> is kept), with a notice; at least one text."""
        cleaned = self.clean(texts)
        tokens = self.tokenize(cleaned)
        self.notice_truncation(self.lengths_of_truncated(cleaned, tokens))
        return tokens

    def clean(self, texts: Sequence[str]) -> list[str]:
        """The texts as the encoder reads them; a warning counts those of which nothing is left."""
        cleaned = [clean_caption(text) for text in texts]
        self._notice_emptied([text for text, left in zip(texts, cleaned, strict=True) if not left])
        return cleaned

    def tokenize(self, cleaned: Sequence[str]) -> TokenizedTexts:
        """Cleaned texts as R rows of tokens, padded to the longest, cut at `max_tokens`."""
        if torch.utils.data.get_worker_info() is not None:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns of the fork
        tokens = self._read(
            list(cleaned),
            padding=True,  # to the longest of the batch: masked positions change nothing, only cost time
            truncation=True,
            max_length=self.max_tokens,
            add_special_tokens=True,
            return_attention_mask=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"]
        return TokenizedTexts(tokens["input_ids"], mask, mask.flatten().nonzero().flatten())

    def vocabulary(self) -> list[str] | None:
        """All words that it knows, sorted, where it knows whole words; None where it knows parts of words."""
        model = getattr(getattr(self.pretrained, "backend_tokenizer", None), "model", None)
        if type(model).__name__ != "WordLevel":
            return None
        words = set(self.pretrained.get_vocab()) - set(self.pretrained.all_special_tokens)
        return sorted(word for word in words if any(map(str.isalnum, word)))

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that it reads as the unknown token, each once, in their order.

        Punctuation is no word, unless there is nothing else that it knows.
        """
        cleaned = clean_caption(text)
        read = self._read(cleaned, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        parts = zip(read["input_ids"], read["offset_mapping"], strict=True)
        unknown_token = self.pretrained.unk_token_id
        unknown = [cleaned[start:end] for token, (start, end) in parts if token == unknown_token]
        if len(unknown) < len(read["input_ids"]):
            unknown = [word for word in unknown if not all(map(_is_punctuation, word))]
        return list(dict.fromkeys(unknown))

    def told_unknown(self, texts: Sequence[str]) -> str:
        """A sentence that names the words of the texts that it does not know; "" if it knows all."""
        unknown = list(dict.fromkeys(word for text in texts for word in self.unknown_words(text)))
        if not unknown:
            return ""
        shown = ", ".join(f"“{word}”" for word in unknown[:_MOST_NAMED])
        others = " and others" if len(unknown) > _MOST_NAMED else ""
        return f"the model does not know {shown}{others}: it is told nothing there, and will guess"

    def length(self, text: str) -> int:
        """Tokens of a text as long as it is, the final </s> included."""
        return len(self._read(clean_caption(text), verbose=False)["input_ids"])

    def lengths_of_truncated(self, cleaned: Sequence[str], tokens: TokenizedTexts) -> list[int]:
        """How long the texts are that lost their end."""
        full = [t for t, n in zip(cleaned, tokens.counts().tolist(), strict=True) if n == self.max_tokens]
        lengths = [len(self._read(text, verbose=False)["input_ids"]) for text in full]
        return [length for length in lengths if length > self.max_tokens]

    def notice_truncation(self, lengths: list[int]) -> None:
        """One line for all texts of these lengths, in tokens, that lost their end."""
        if not lengths:
            return
        who = "a prompt" if len(lengths) == 1 else f"{len(lengths)} prompts, the longest"
        get_logger(TRUNCATION_LOG).warning(
            "%s of %d tokens: the end was cut, %d tokens are kept", who, max(lengths), self.max_tokens
        )

    def _read(self, texts: str | list[str], **options: Any) -> BatchEncoding:
        with _TOKENIZING:
            return self.pretrained(texts, **options)

    def _notice_emptied(self, texts: Sequence[str]) -> None:
        """Warns when the number of such texts has doubled: a training encodes one batch after another."""
        before, self._num_emptied = self._num_emptied, self._num_emptied + len(texts)
        if self._num_emptied.bit_length() > before.bit_length():
            get_logger("t5").warning(
                "%d text(s) so far, such as %r, leave no words once cleaned: the model is told nothing; "
                "write them in English words",
                self._num_emptied,
                texts[0][:80],
            )


class T5Encoder:
    """A frozen T5 encoder with its tokenizer and the caption cleaning.

    Attributes:
      name: the folder that it came from, or its hub id.
      width: feature width C.
      max_tokens: longest caption in tokens, the final </s> included.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | torch.device = "cpu",
        precision: torch.dtype = torch.float32,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        """
        Args:
          path: a model folder, or a hub id in the user's cache; see `resolve_t5`.
          precision: type of the weights and the arithmetic; features come back as float32 whatever it is.
        Raises:
          UserError: the files are missing, damaged, or not a T5's.
        """
        self.device = torch.device(device)
        pretrained, model = _load(str(path), precision)
        self.tokenizer = T5Tokenizer(pretrained, max_tokens)
        self._model = model.eval().requires_grad_(False).to(self.device)
        self.width: int = model.config.d_model
        self.name = str(path)

    @property
    def max_tokens(self) -> int:
        """Of the tokenizer, which cuts the texts."""
        return self.tokenizer.max_tokens

    @max_tokens.setter
    def max_tokens(self, most: int) -> None:
        self.tokenizer.max_tokens = most

    @property
    def is_local(self) -> bool:
        """Whether it came from a folder, not from the hub's cache."""
        return Path(self.name).is_dir()

    @property
    def hub_id(self) -> str | None:
        """Its name on the hub; None for a folder, unless it is called as one of Google's FLAN-T5."""
        if not self.is_local:
            return self.name
        name = Path(self.name).resolve().name
        return f"google/{name}" if name in _ON_THE_HUB else None

    def to(self, device: str | torch.device) -> None:
        """Moves the weights."""
        self.device = torch.device(device)
        self._model.to(self.device)

    def save(self, folder: str | Path) -> None:
        """Writes model and tokenizer as transformers does."""
        self.tokenizer.pretrained.save_pretrained(folder)
        self._model.save_pretrained(folder)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of features `encode` gives for each caption, without running the model."""
        cleaned = [clean_caption(text) for text in texts]
        return self.tokenizer.tokenize(cleaned).counts().tolist() if cleaned else []

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = ROWS) -> list[TextFeatures]:
        """Encodes captions.

        A caption longer than `max_tokens` loses its end (</s> is kept), with one notice per call. An empty
        one, or one of which cleaning leaves nothing, has the single token </s>; a warning counts these.

        Args:
          texts: captions as people wrote them; they are cleaned here.
          batch_size: captions per forward pass; it does not change the result.
        Returns:
          One entry per caption: embeddings (n, width) float32 on the encoder's device, all rows valid.
        """
        cleaned = self.tokenizer.clean(texts)
        features: list[TextFeatures] = []
        truncated: list[int] = []
        for start in range(0, len(cleaned), batch_size):
            batch = cleaned[start : start + batch_size]
            tokens = self.tokenizer.tokenize(batch)
            rows = self.encode_tokens(tokens, batch_size).split(tokens.counts().tolist())
            features += [self._text_features(text, own) for text, own in zip(batch, rows, strict=True)]
            truncated += self.tokenizer.lengths_of_truncated(batch, tokens)
        self.tokenizer.notice_truncation(truncated)
        return features

    @torch.no_grad()
    def encode_tokens(self, tokens: TokenizedTexts, batch_size: int = ROWS) -> Tensor:
        """(M, C) float32 features of all tokens but the padding, one text after the other; waits for nothing.

        They are not checked: those of an encoder that overflows are not finite.

        Args:
          batch_size: texts per forward pass.
        """
        tokens = tokens.to(self.device)
        parts = zip(tokens.ids.split(batch_size), tokens.mask.split(batch_size), strict=True)
        hidden = [self._model(ids, attention_mask=mask).last_hidden_state.float() for ids, mask in parts]
        return torch.cat(hidden).flatten(0, 1)[tokens.kept]

    def fingerprint(self) -> str:
        """Tells encoders apart: a hash of the vocabulary and of a sample of every weight, as loaded."""
        vocabulary = repr(sorted(self.tokenizer.pretrained.get_vocab().items()))
        return hashlib.sha256((vocabulary + weights_fingerprint(self._model)).encode()).hexdigest()

    def _text_features(self, text: str, rows: Tensor) -> TextFeatures:
        if not torch.isfinite(rows).all():
            raise UserError(
                f"{self.name} gives NaN or infinity for {text[:80]!r} in {self._model.dtype}; "
                "use --precision bf16 or none (T5 overflows in fp16)"
            )
        return TextFeatures(rows, torch.ones(len(rows), dtype=torch.bool, device=rows.device))


def encode_texts(encoder: T5Encoder | None, texts: Sequence[str | TextFeatures]) -> list[TextFeatures]:
    """Features of each text, on the CPU, so that encoded and ready-made ones stand in one batch.

    Raises:
      UserError: strings, but no encoder.
    """
    words = [text for text in texts if isinstance(text, str)]
    if words and encoder is None:
        raise UserError(f"no text encoder is loaded for {words[0][:80]!r}: give --t5-path, or text features")
    encoded = iter(encoder.encode(words) if words else [])
    features = (next(encoded) if isinstance(text, str) else text for text in texts)
    return [TextFeatures(one.embeddings.cpu(), one.valid.cpu()) for one in features]


def _require_files(path: str) -> None:
    """Refuses a folder with a pipe among the files that transformers would read."""
    for file in Path(path).iterdir() if Path(path).is_dir() else ():
        if not file.is_dir():
            require_regular(file, "each file of a text encoder")


def _refuse_code(path: str) -> None:
    """Refuses a model whose files name Python code of its own as what loads it (`auto_map`).

    It would not be run; what stands in for it need not compute the same.
    """
    for name in _CONFIG_FILES:
        file = Path(path) / name
        if not Path(path).is_dir():
            with suppress(HFValidationError):  # an absent folder is no hub's name; the loading says so
                cached = try_to_load_from_cache(path, name)
                file = Path(cached) if isinstance(cached, str) else file
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # what is missing or broken is named by the loading
        if isinstance(content, dict) and content.get("auto_map"):
            raise UserError(
                f"{path}: brings code of its own ({name}: auto_map {str(content['auto_map'])[:100]}), "
                "which is not run; give --t5-path and --t5-model-type a T5 as transformers saves it, such as "
                "google/flan-t5-xl"
            )


def _load(path: str, precision: torch.dtype) -> tuple[PreTrainedTokenizerBase, T5EncoderModel]:
    """Tokenizer and model of `path`, from files on this machine only; no code of theirs is run."""
    _require_files(path)
    _refuse_code(path)
    from transformers import AutoTokenizer, T5EncoderModel
    from transformers.utils.logging import disable_progress_bar

    # Left out, transformers would ask on the terminal whether to run what a model's folder brings.
    options = {"local_files_only": True, "trust_remote_code": False}
    disable_progress_bar()  # of a moment, and between the lines of a program's own
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        model, report = T5EncoderModel.from_pretrained(
            path, dtype=precision, output_loading_info=True, **options
        )
    except Exception as problem:  # transformers, tokenizers and safetensors raise many kinds
        reason = str(problem).strip().split("\n")[0][:200]
        raise UserError(
            f"{path}: not a T5 text encoder that can be loaded ({type(problem).__name__}: {reason}). "
            "The folder must hold config.json, the tokenizer's files (tokenizer.json or spiece.model) "
            "and model.safetensors; --t5-path and --t5-model-type name it"
        ) from problem
    # Missing weights would be drawn at random, with no more than a warning.
    broken = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if broken:
        raise UserError(
            f"{path}: {len(broken)} weights are missing or misshapen ({', '.join(broken[:4])}); "
            "download the model again"
        )
    _require_fitting(path, tokenizer, model, report["unexpected_keys"])
    return tokenizer, model


def _require_fitting(
    path: str, tokenizer: PreTrainedTokenizerBase, model: T5EncoderModel, unexpected: Iterable[str]
) -> None:
    """Refuses files of different models: blocks that the config leaves out, words that have no vector."""
    left_out = sorted(name for name in unexpected if name.startswith("encoder.block."))
    if left_out:
        raise UserError(
            f"{path}: its weights have more blocks than its config.json, {model.config.num_layers} "
            f"({left_out[0]}): take both files from one model"
        )
    highest = max(tokenizer.get_vocab().values())
    if highest >= model.config.vocab_size:
        raise UserError(
            f"{path}: its tokenizer knows tokens up to {highest}, its model {model.config.vocab_size}: "
            "take all files from one model"
        )
    if tokenizer.pad_token is None:
        raise UserError(
            f"{path}: its tokenizer has no padding token (pad_token in tokenizer_config.json, in T5 <pad>); "
            "take the tokenizer's files from the model's own folder"
        )
