"""`python -m tests.battery`; see `runner`, which lives apart so that spawned workers can import it."""

from runtime.errors import run_command
from tests.battery.runner import main

if __name__ == "__main__":
    run_command(main)
