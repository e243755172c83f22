"""Makes a data set of edits out of an npm package of emoji, in all formats that training and evaluation read.

    npm pack emoji-datasource-google
    python dataset/emoji/prepare_emoji.py --package emoji-datasource-google-16.0.0.tgz --output-dir data/emoji

train/t2i.jsonl                      captioned images: sources, edited images, each emoji alone
train/editing.jsonl                  UltraEdit list of edit pairs
test/                                MagicBrush test set: pairs and scenes that training never shows
test_names/                          the same, with emoji of which training shows no picture and no word
test_emu/                            Emu Edit test set, a part of the edits of test/
drawings/                            captions to draw: names seen, seen in other tones, never seen
sprites.npz                          the pictures and their names, for the verifier, with emoji.json
LICENSE*, NOTICE.txt                 of the pictures and of the index; keep them with whatever you pass on
preview.png                          what it looks like

Natural edits change a tone of skin, a gender, hair, a colour, a clock's time or the moon's phase: both
pictures are the artist's. Stickers are added, removed, replaced, moved, resized, or get another background.
"""

from __future__ import annotations

from dataset.emoji.flags import PrepareEmojiConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(PrepareEmojiConfig)
    # PyTorch and Arrow are imported once the flags are right.
    from dataset.emoji.prepare import prepare_emoji

    prepare_emoji(config)


if __name__ == "__main__":
    run_command(main)
