"""A server that speaks OpenAI's image API.

    pip install -e '.[server]'
    python integrations/server/serve.py                              # the shipped models for shapes
    NEP_API_KEY=secret python integrations/server/serve.py --model FOLDER --host 0.0.0.0

It listens on this machine only unless `--host` says otherwise, and keeps nothing on disk.
"""

from __future__ import annotations

from integrations.server.config import Serve
from runtime.config import parse
from runtime.errors import run_command


def main() -> None:
    config = parse(Serve)
    from integrations.server.run import serve  # PyTorch is imported once the flags are right

    serve(config)


if __name__ == "__main__":
    run_command(main)
