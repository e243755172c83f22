"""`python -m nep`, and under torchrun `torchrun --nproc_per_node=4 -m nep train editing ...`."""

from __future__ import annotations

from nep.cli import main

if __name__ == "__main__":
    main()
