import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from poke_env import AccountConfiguration
from poke_env.player import RandomPlayer

from cleanpoke.envs.showdown.node_runtime import NODE_FOLDER
from cleanpoke.envs.showdown.server import LocalServer
from cleanpoke.errors import CleanPokeError


def processes_of_session(session: int) -> list[int]:
    """Living processes in a session, by /proc: the server leads its own."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, _, its_session = file.read().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(name))
    return found


def wait_until(condition, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_players_battle_over_websockets_and_nothing_stays_behind():
    async def battle(server: LocalServer) -> None:
        players = [
            RandomPlayer(
                account_configuration=AccountConfiguration(name, None),
                battle_format="gen1randombattle",
                server_configuration=server.configuration,
            )
            for name in ("server test a", "server test b")
        ]
        await asyncio.wait_for(players[0].battle_against(players[1], n_battles=2), timeout=60)
        assert players[0].n_finished_battles == 2

    before = set(os.listdir(NODE_FOLDER / "node_modules" / "pokemon-showdown"))
    with LocalServer() as server:
        asyncio.run(battle(server))
        session, folder = server._process.pid, server._folder
        assert processes_of_session(session)
    assert wait_until(lambda: not processes_of_session(session))
    assert not folder.exists()
    assert set(os.listdir(NODE_FOLDER / "node_modules" / "pokemon-showdown")) == before
    server.close()


def test_server_dies_with_its_parent():
    code = """
import time
from cleanpoke.envs.showdown.server import LocalServer
server = LocalServer()
print(server._process.pid, server._folder, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    session, folder = parent.stdout.readline().split()
    assert processes_of_session(int(session))
    parent.kill()
    parent.communicate(timeout=20)
    assert wait_until(lambda: not processes_of_session(int(session)))
    assert wait_until(lambda: not os.path.exists(folder))


def test_taken_port_is_one_clear_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CleanPokeError, match=f"port {port} is not free"):
            LocalServer(port)


def test_slow_start_gives_up_with_a_message():
    with pytest.raises(CleanPokeError, match="did not come up within 0.001 s"):
        LocalServer(timeout_seconds=0.001)


def test_command_serves_until_interrupted():
    process = subprocess.Popen(
        [sys.executable, "-m", "cleanpoke.envs.showdown.server", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "serving at ws://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
