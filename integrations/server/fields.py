"""The fields of a request, by name and with their ranges; what cannot be honoured is refused, not ignored."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from integrations.server.errors import ApiError, bad_request

_COMMON = {
    "prompt": "what to do, or for generations what the picture shows",
    "model": "an id of /v1/models; by default the one that fits",
    "adapter": "extension: one that /v1/models lists with the model; by default none",
    "n": "results, 1 to 10",
    "size": "auto, or WxH if it is the size that the result has anyway",
    "output_format": "png, jpeg or webp",
    "output_compression": "quality of jpeg and webp, 0 to 100; webp without it loses nothing",
    "response_format": "b64_json",
    "stream": "true: server-sent events",
    "partial_images": "pictures sent while it is drawn, 0 to 3, with stream",
    "user": "not used, not logged",
    "seed": "extension: the same seed gives the same result; drawn and told if it is not given",
    "guidance_scale": "extension: guidance; 1 is none; by default the model's",
    "temperature": "extension: of the draws; by default the model's",
}
EDIT_FIELDS = {
    "image": "the picture to edit: PNG, JPEG, WebP, BMP or GIF",
    "mask": "of the image's size, transparent = edit",
    "mask_image": "extension: of the image's size, white = edit",
    "crop": "extension: what the model sees: auto, region or none",
    **_COMMON,
}
DRAW_FIELDS = dict(_COMMON)
# Known to OpenAI's clients: the values that mean what is done here anyway, and why others are refused.
_FIXED = {
    "quality": ((), "there is one quality"),
    "background": ((), "the result has the picture's own transparency"),
    "input_fidelity": (("high",), "pixels outside the edited cells always stay"),
    "moderation": (("low",), "nothing is moderated"),
    "style": ((), "there is one style"),
    "negative_prompt": ((), "models here are guided away from no text, not from another one"),
}
_MISSING = (None, "")


class Fields:
    """Values by name, read one by one."""

    def __init__(self, values: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """
        Args:
          values: strings and bytes of a form, or what JSON holds.
          known: the names that there may be.
        Raises:
          ApiError: an unknown name, or a value that cannot be honoured.
        """
        self._values = {name: value for name, value in values.items() if value not in _MISSING}
        for name, value in self._values.items():
            if name in _FIXED:
                fine, why = _FIXED[name]
                if value not in ("auto", *fine):
                    code = "unsupported_parameter"
                    raise bad_request(f"{name} {str(value)[:80]!r} cannot be honoured: {why}", name, code)
            elif name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
                shown = name[:80].encode("ascii", "backslashreplace").decode()  # half a character is no JSON
                raise bad_request(f"unknown parameter {shown!r}{meant}", shown, "unknown_parameter")

    def has(self, name: str) -> bool:
        return name in self._values

    def raw(self, name: str) -> Any:
        """As it was sent.

        Raises:
          ApiError: it is missing.
        """
        if name not in self._values:
            raise bad_request(f"{name} is required", name, "missing_required_parameter")
        return self._values[name]

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self._values.get(name, default)
        if value is not None and not isinstance(value, str):
            raise _wrong(name, value, "a text")
        return value

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise _wrong(name, value, f"one of {', '.join(choices)}")
        return value

    def flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        if not isinstance(value, bool):
            raise _wrong(name, value, "true or false")
        return value

    def whole(self, name: str, default: int | None, least: int, most: int) -> int | None:
        value = self._number(name, default)
        if value is not None and not (least <= value <= most and float(value).is_integer()):
            raise _wrong(name, value, f"a whole number from {least} to {most}")
        return None if value is None else int(value)

    def number(self, name: str, least: float, most: float) -> float | None:
        value = self._number(name, None)
        if value is not None and not least <= value <= most:
            raise _wrong(name, value, f"a number from {least:g} to {most:g}")
        return None if value is None else float(value)

    def _number(self, name: str, default: int | None) -> int | float | None:
        value = self._values.get(name, default)
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                try:
                    value = float(value)
                except ValueError:
                    raise _wrong(name, value, "a number") from None
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise _wrong(name, value, "a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(name, value, "a finite number")
        return value


def _wrong(name: str, value: Any, wanted: str) -> ApiError:
    return bad_request(f"{name} {str(value)[:80]!r}: give {wanted}", name, "invalid_value")
