import asyncio
import csv
import logging

import pytest
from poke_env import AccountConfiguration
from poke_env.concurrency import POKE_LOOP
from poke_env.player import RandomPlayer

from cleanpoke.envs.showdown.battle_page import battle_page
from cleanpoke.envs.showdown.client import BattleResult
from cleanpoke.envs.showdown.players import make_player
from cleanpoke.envs.showdown.server import LocalServer
from cleanpoke.envs.showdown.teams import load_teams
from cleanpoke.errors import CleanPokeError
from tools.play_showdown import Args, Records, account, main, packed_teams, play, server_configuration

LOG = [
    "|player|p1|Ann|1|",
    "|player|p2|Bob|2|",
    "|turn|1",
    "|c|☆Bob|</script><script>alert(1)</script><!--",
    "|move|p1a: Tauros|Body Slam|p2a: Jynx",
    "|-damage|p2a: Jynx|0 fnt",
    "|faint|p2a: Jynx",
    "|win|Ann",
]


def result(**changes):
    fields = {
        "room": "battle-gen1ou-7",
        "opponent": "Bob",
        "opponent_rating": 1100,
        "own_rating": 1052,
        "result": "win",
        "reason": "played",
        "turns": 12,
        "log": LOG,
    }
    return BattleResult(**{**fields, **changes})


def rows(folder):
    with (folder / "battles.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_result_is_a_line_and_a_page(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    page = Records(tmp_path, checkpoint, "gen1ou").add(result())
    Records(tmp_path, checkpoint, "gen1ou").add(result(opponent="Carl, the 2nd", opponent_rating=None))
    first, second = rows(tmp_path)
    assert first["opponent"] == "Bob"
    assert (first["rating"], first["own_rating"], first["turns"]) == ("1100", "1052", "12")
    assert (first["result"], first["checkpoint"]) == ("win", str(checkpoint))
    assert (second["opponent"], second["rating"]) == ("Carl, the 2nd", "")
    assert "Tauros (p1) uses Body Slam" in page.read_text(encoding="utf-8")


def test_losses_by_timeout_are_counted_as_such(tmp_path):
    records = Records(tmp_path, tmp_path / "checkpoint.pt", "gen1ou")
    for changes in ({}, {"result": "loss"}, {"result": "loss", "reason": "timeout"}, {"result": "tie"}):
        records.add(result(**changes))
    assert records.summary() == "1 won, 2 lost, 1 tied; 1 of the losses by timeout"
    assert [row["reason"] for row in rows(tmp_path)] == ["played", "played", "timeout", "played"]


def test_page_holds_the_log_and_runs_nobody_elses_script():
    page = battle_page("battle-gen1ou-7", "Ann & Bob", LOG)
    assert page.count("<script") == 3  # the log, the viewer, and the text of the chat line inside the log
    assert page.count("</script>") == 2
    assert "<!--" not in page
    assert "|move|p1a: Tauros|Body Slam|p2a: Jynx" in page
    assert "<title>Ann &amp; Bob</title>" in page


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:8000", "ws://localhost:8000/showdown/websocket"),
        ("http://host:80/", "ws://host:80/showdown/websocket"),
        ("wss://host/other", "wss://host/other"),
        ("public", "wss://sim3.psim.us/showdown/websocket"),
    ],
)
def test_server_addresses(url, address):
    assert server_configuration(url).websocket_url == address


def test_wrong_arguments_are_told_in_one_line(tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(CleanPokeError, match="choose one of"):
        main(Args(checkpoint))
    with pytest.raises(CleanPokeError, match="choose one of"):
        main(Args(checkpoint, ladder=True, challenge="Bob"))
    with pytest.raises(CleanPokeError, match="must be positive"):
        main(Args(checkpoint, ladder=True, battles=0))
    with pytest.raises(CleanPokeError, match="cannot read checkpoint"):
        main(Args(checkpoint, ladder=True))
    checkpoint.write_bytes(b"nonsense")
    with pytest.raises(CleanPokeError, match="damaged or not a CleanPoke checkpoint"):
        main(Args(checkpoint, ladder=True))
    with pytest.raises(CleanPokeError, match="no address"):
        server_configuration("ftp://host")
    monkeypatch.delenv("POKEMON_SHOWDOWN_PASSWORD", raising=False)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115
    with pytest.raises(CleanPokeError, match="give --username"):
        account(Args(checkpoint, server_url="public"))
    with pytest.raises(CleanPokeError, match="POKEMON_SHOWDOWN_PASSWORD"):
        account(Args(checkpoint, server_url="public", username="Ann"))
    team = tmp_path / "team.txt"
    team.write_text(load_teams("gen9ou")[0].packed)
    with pytest.raises(CleanPokeError, match="is a Gen-9 team"):
        packed_teams(Args(checkpoint, team=team), "gen1ou")


def test_two_battles_over_websockets_are_played_and_recorded(tmp_path, capsys):
    with LocalServer() as server:
        opponent = RandomPlayer(
            account_configuration=AccountConfiguration("randomfoe", None),
            battle_format="gen1randombattle",
            server_configuration=server.configuration,
            log_level=logging.CRITICAL + 1,
        )
        asyncio.run_coroutine_threadsafe(opponent._accept_challenges(None, 2, None), POKE_LOOP)
        args = Args(
            tmp_path / "checkpoint.pt",
            challenge="randomfoe",
            battles=2,
            server_url=server.websocket_url,
            output_dir=tmp_path / "out",
            wait_minutes=1,
        )
        player = make_player("tactician", "gen1randombattle", seed=1)
        play(args, player, "gen1randombattle", args.checkpoint, lambda: False)
        asyncio.run_coroutine_threadsafe(opponent.ps_client._stop_listening(), POKE_LOOP).result(10)
    lines = rows(tmp_path / "out")
    assert [line["opponent"] for line in lines] == ["randomfoe"] * 2
    assert all(line["result"] in ("win", "loss", "tie") and line["reason"] == "played" for line in lines)
    for line in lines:
        page = (tmp_path / "out" / line["page"]).read_text(encoding="utf-8")
        assert 'class="battle-log-data"' in page
        assert "<h2>Turn 1</h2>" in page
    assert "2/2" in capsys.readouterr().out
