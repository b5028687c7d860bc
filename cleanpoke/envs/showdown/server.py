"""A local Pokémon Showdown server, for whatever must go over websockets; training needs none (simulator.py).

    with LocalServer() as server:
        player = RandomPlayer(server_configuration=server.configuration)

The npm package serves as it is, with neither a build step nor esbuild, but it wants a config file and folders
that it does not bring. They are made in a temporary folder full of links to the package: node_modules stays
untouched, and servers share no state. To serve until Ctrl-C:

    python -m cleanpoke.envs.showdown.server --port 8000
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from poke_env import ServerConfiguration

from cleanpoke.envs.showdown.node_runtime import NODE_FOLDER, node_binary, showdown_version
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.terminal import StopSignal

# The processes that battles need are Showdown's defaults; those for friends, chat search and so on are
# left out. The main process ends, and takes its folder along, when its stdin closes, a pipe that only we
# hold: that happens however we die. Its own children end when their channel to it closes.
CONFIG = """\
exports.port = %(port)d;
exports.bindaddress = "127.0.0.1";
exports.loginserver = "";
exports.repl = false;
exports.watchconfig = false;
exports.subprocesses = {network: 1, simulator: 1, validator: 1};
function leave() {
	require("fs").rmSync(%(folder)s, {recursive: true, force: true});
	process.exit(0);
}
if (!process.send) process.stdin.resume().on("close", leave);
"""


class LocalServer:
    """A server on 127.0.0.1 without logins and rate limits (`--no-security`), from `with` to its end.

    port: 0 takes a free one. Raises CleanPokeError when the port is taken, when Node or Showdown are not
    installed, or when the server takes no connections within `timeout_seconds`.
    """

    def __init__(self, port: int = 0, *, timeout_seconds: float = 60) -> None:
        showdown_version()  # says how to install it when it is missing
        self.port = reserve_port(port)
        self._folder = Path(tempfile.mkdtemp(prefix="cleanpoke-server-"))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start(timeout_seconds)
        except BaseException:
            self.close()
            raise

    @property
    def websocket_url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self.port}/showdown/websocket"

    @property
    def configuration(self) -> ServerConfiguration:
        """The same for poke-env. Accounts need no password, so the authentication address stays unused."""
        return ServerConfiguration(self.websocket_url, "http://127.0.0.1/no-authentication?")

    @property
    def alive(self) -> bool:
        """Whether the server still runs."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server and its processes, removes its folder. Calling it twice does no harm."""
        if self._process is not None:
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
            with contextlib.suppress(
                ProcessLookupError
            ):  # the group is named by its leader, also after it left
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the server printed."""
        log = self._folder / "server.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def _start(self, timeout_seconds: float) -> None:
        package = NODE_FOLDER / "node_modules" / "pokemon-showdown"
        for item in package.iterdir():
            if item.name not in ("config", "logs"):
                (self._folder / item.name).symlink_to(item)
        (self._folder / "node_modules").symlink_to(package.parent)
        for name in ("config/chat-plugins", "logs/repl"):
            (self._folder / name).mkdir(parents=True)
        config = CONFIG % {"port": self.port, "folder": json.dumps(str(self._folder))}
        (self._folder / "config" / "config.js").write_text(config)
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [node_binary(), "--preserve-symlinks", "--preserve-symlinks-main", "pokemon-showdown"]
                + ["start", "--no-security", "--skip-build", str(self.port)],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we end the server when we are done with it
            )
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not self.alive or "EADDRINUSE" in self.log_tail():
                raise CleanPokeError(f"the Showdown server failed to start; it said: {self.log_tail()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise CleanPokeError(
            f"the Showdown server did not come up within {timeout_seconds:g} s; it said: {self.log_tail()}"
        )


def reserve_port(port: int) -> int:
    """The port itself if nothing listens on it, for 0 a free one. Raises CleanPokeError when it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ports that merely linger are free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CleanPokeError(
                f"port {port} is not free ({error.strerror}): choose another, or 0"
            ) from error
        return probe.getsockname()[1]


@dataclass
class Args:
    """Serves Pokémon Showdown on this machine until Ctrl-C."""

    port: int = 8000
    """TCP port on 127.0.0.1; 0 takes a free one"""


def main(args: Args) -> None:
    with StopSignal() as stop, LocalServer(args.port) as server:
        print(f"serving at {server.websocket_url} (Ctrl-C ends it)", flush=True)
        while not stop:
            if not server.alive:
                raise CleanPokeError(f"the Showdown server ended; it said: {server.log_tail()}")
            time.sleep(0.2)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Args))
