"""The flags of reproduce_paper.py."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from autoregressive.models.config import GPT_MODELS
from autoregressive.scaling.choices import REWARDS
from runtime.config import argument, check_ranges, option
from runtime.errors import UserError
from runtime.flags import drawing, models, shared, training

TABLES = ("1", "2", "3", "4", "5", "6", "7")


@dataclass(frozen=True)
class ReproducePaper:
    """Reproduces a table of the paper."""

    TOPICS: ClassVar[dict[str, str]] = {
        "pretrained": "where files are",
        "gpt_ckpt": "models that nobody has published",
        "gpt_model": "how it is done",
    }
    EXAMPLES: ClassVar[str] = """
  bash scripts/reproduce_paper.sh 5 --dry-run
  bash scripts/reproduce_paper.sh 6 --num-ranks 4
  bash scripts/reproduce_paper.sh 3 --ultraedit data/ultraedit/ultraedit_t5.jsonl --num-ranks 4
"""

    table: str = argument("which table of the paper: 1 to 7")
    dry_run: bool = training.dry_run("say what it takes and what is missing")
    work_dir: str = shared.work_dir("results/paper")
    pretrained: str = option("pretrained_models", help="files that are here are not downloaded")
    revisions: list[str] | None = option(
        None, help="REPOSITORY=COMMIT: other than those pinned here, or noted in downloads.json"
    )
    magicbrush_path: str = shared.magicbrush_path("data/MagicBrush_test/test", "MagicBrush's test set")
    coco: str = option("data/coco", help="COCO: val2014/ and annotations/captions_val2014.json")

    gpt_ckpt: str | None = models.gpt_ckpt(None, "stage-2 editor, for tables 1 to 4")
    no_marks_ckpt: str | None = option(None, help="one without editing region conditioning, for table 3")
    ntp_ckpt: str | None = option(None, help="one that regenerates all cells, for table 3")
    ultraedit: str | None = option(
        None, help="list of prepare_ultraedit.sh: editors that are not given are trained on it"
    )

    gpt_model: str = models.gpt_model("R-GPT-XL", sorted(n for n in GPT_MODELS if "R" in n))
    image_size: int = models.image_size(what="the images that are drawn, and trained on")
    text: str = shared.text(["global", "instruction"], ", as published lists train")
    num_ranks: int = training.num_ranks(" or a sampling")
    num_prompts: int = shared.num_prompts("captions of COCO")
    reward: str = drawing.reward("image_reward", REWARDS, "leads test-time scaling")
    sample_flags: str = option("", help='more flags of the samplers: "--cfg-scale 3 --batch-size 64"')
    train_flags: str = option("", help="more flags of the trainings, in the same way")
    gpu: str = training.gpu("A100", " in --dry-run")

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if self.table not in TABLES:
            raise UserError(f"table {self.table!r}: the paper has the tables {', '.join(TABLES)}")
        for text in self.revisions or []:
            if len(text.split("=")) != 2 or "/" not in text:
                raise UserError(
                    f"--revisions {text!r}: write REPOSITORY=COMMIT, as google/flan-t5-xl=7d6315d"
                )

    @property
    def root(self) -> Path:
        return Path(self.work_dir).resolve()

    @property
    def more_sampling(self) -> list[str]:
        return shlex.split(self.sample_flags)

    @property
    def more_training(self) -> list[str]:
        return shlex.split(self.train_flags)

    def revision(self, repository: str) -> str | None:
        """The commit that --revisions names for a repository."""
        return dict(text.split("=") for text in self.revisions or []).get(repository)
