"""What flags choose from, by name: kinds of data, of texts and of masks. It does without PyTorch."""

from __future__ import annotations

DATASET_NAMES = ("t2i_cc12m", "t2i_laion_coco", "t2i", "t2i_code", "editing_ultraedit")
"""The formats of training data that `dataset.build` reads."""
TEXT_FIELDS = ("instruction", "target_caption")
"""The texts of an edit that a model may be told."""
IMAGE_FORMATS = ("original", "png", "jpg")
"""How prepared pictures are stored: byte for byte, or encoded anew."""
RULES = ("published", "exact")
"""How `dataset.edit_masks` pools a mask of pixels into one of cells."""
LANGUAGES = ("en", "cn")
"""Of GEdit-Bench's instructions."""
