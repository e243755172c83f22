"""Loads the models, listens, and stops without dropping anybody."""

from __future__ import annotations

import time
from types import FrameType

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn
except ModuleNotFoundError as error:
    from runtime.errors import UserError

    raise UserError(f"{error.name} is not installed: pip install -e '.[server]'") from error

from integrations.server.app import make_app
from integrations.server.config import Serve
from integrations.server.middleware import ServerState
from integrations.server.served import Served, load_adapters, load_pipelines
from runtime.errors import UserError
from runtime.logging import get_logger
from runtime.ports import listen

log = get_logger("server")
LOCAL = ("127.0.0.1", "::1", "localhost")
_LEAST_QUIET = 0.2  # seconds without an open request before it ends, so that late clients are told


class Server(uvicorn.Server):
    """Ends on SIGTERM or Ctrl-C once the open requests are answered; new ones are refused meanwhile.

    A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state, self._quiet_since = state, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.stopping:
            super().handle_exit(sig, frame)
            self.force_exit = True
            return
        self._state.stopping = True
        self._quiet_since = time.monotonic()
        log.info("stopping: %d open requests are answered, new ones refused", self._state.num_open)

    async def on_tick(self, counter: int) -> bool:
        if self._state.num_open:
            self._quiet_since = time.monotonic()
        if self._state.stopping and time.monotonic() - self._quiet_since > _LEAST_QUIET:
            self.should_exit = True
        return await super().on_tick(counter)


def serve(config: Serve) -> None:
    """Loads the models and answers until the program is told to stop."""
    start = time.perf_counter()
    listening = listen(config.host, config.port)
    with listening:
        pipelines = load_pipelines(config.model, config.device, config.precision, config.t5_path)
        load_adapters(pipelines, config.adapters())
        served, state = Served(config.model, pipelines, config.max_lanes), ServerState()
        settings = uvicorn.Config(
            make_app(served, config, state), log_config=None, access_log=False, server_header=False
        )
        host, port = listening.getsockname()[:2]
        if config.api_key is None and config.host not in LOCAL:
            log.warning("anybody who reaches %s may use the models: set NEP_API_KEY", host)
        seconds = time.perf_counter() - start
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        log.info("%s at %s (ready after %.1f s; Ctrl-C ends it)", ", ".join(served.names()), address, seconds)
        Server(settings, state).run(sockets=[listening])
    log.info("stopped")
