"""The scene with which the demo opens, and what to try on it. The shipped editor does all of them rightly."""

from __future__ import annotations

from dataset.shapes.scenes import OFFSET, Background, Scene, SceneObject

SCENE = Scene(
    (
        SceneObject("circle", "red", "large", "top left", OFFSET, OFFSET),
        SceneObject("star", "blue", "large", "center", -OFFSET, OFFSET),
        SceneObject("square", "green", "small", "bottom right", -OFFSET, -OFFSET),
    ),
    Background("beige", "speckled", seed=3),
)
INSTRUCTIONS = (
    "make the large red circle purple",
    "turn the large blue star into a triangle",
    "remove the small green square",
    "add a small yellow diamond at the top right",
    "make the small green square large",
)
