"""Rewards of the user's own, by an entry point."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from autoregressive.scaling.choices import ENTRY_POINT
from autoregressive.scaling.reward import Reward, RewardCase
from runtime.errors import UserError

Judge = Callable[[list[Image.Image], list[RewardCase]], Sequence[float]]


class FunctionReward(Reward):
    """A function of images and cases that returns a number for each."""

    def __init__(self, name: str, function: Judge) -> None:
        self.name, self._function = name, function

    def score(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        return self.judge(images, [RewardCase(text) for text in texts])

    def judge(self, images: Sequence[Image.Image], cases: Sequence[RewardCase]) -> Tensor:
        return torch.as_tensor(self._function(list(images), list(cases)), dtype=torch.float32)


def own_reward(name: str) -> Reward:
    """The reward that "module:function" names: a function, or a class that is a `Reward`.

    Raises:
      UserError: no such module, nothing of that name in it that can be called, or a class that fails.
    """
    module, _, attribute = name.partition(ENTRY_POINT)
    try:
        loaded = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's module does
        fix = ": is its folder on PYTHONPATH?" if isinstance(error, ImportError) else ""
        raise UserError(
            f"the reward {name!r} cannot be imported ({type(error).__name__}: {error}){fix}"
        ) from error
    if not hasattr(loaded, attribute):
        raise UserError(f"the reward {name!r}: the module {module} has no {attribute!r}")
    found = getattr(loaded, attribute)
    if isinstance(found, type) and issubclass(found, Reward):
        return _made(name, found)
    if not callable(found):
        raise UserError(f"the reward {name!r} is no function but {type(found).__name__}")
    return FunctionReward(name, found)


def _made(name: str, kind: type[Reward]) -> Reward:
    try:
        return kind()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's class does
        raise UserError(f"the reward {name!r} cannot be made ({type(error).__name__}: {error})") from error
