"""Makes a list for stage 1 of captioned images in any of the usual layouts.

python dataset/prepare_captions.py --data-path cc12m
python dataset/prepare_captions.py --data-path cc12m_shards --output-dir data/cc12m
python dataset/prepare_captions.py --data-path images.tsv --image-column path --caption-column text
python dataset/prepare_captions.py --data-path blip_laion_cc_sbu_558k.json --image-root images

They are: folders with NAME.jpg and NAME.txt or NAME.json (img2dataset's format "files"), .tar shards (its
format "webdataset"), a .csv or .tsv with a header, LLaVA's JSON, where the first answer is the caption.

The list, captions.jsonl or `--name`, has {"image_path", "text", "width", "height"} a line. It lies with the
images, whose paths count from there; images of shards are written to images/. Every image is decoded. Those
with a short side below `--min-side`, to which training would give no weight, are left out, counted, and named
in small_images.txt; what cannot be used is named in bad_items.txt, both in captions_preparation/. Start the
command again after a stop, or with more data.

Train with `--dataset t2i_cc12m --data-path data/cc12m/captions.jsonl`; text features can be made first:

python language/extract_t5_feature.py --data-path data/cc12m/captions.jsonl
"""

from __future__ import annotations

from dataset.prepare.flags import PrepareCaptionsConfig
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(PrepareCaptionsConfig)
    # PyTorch and Arrow are imported once the flags are right.
    from dataset.prepare.captions import prepare_captions

    prepare_captions(config)


if __name__ == "__main__":
    run_command(main)
