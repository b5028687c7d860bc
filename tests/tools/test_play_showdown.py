import csv
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from cleanpoke import awac_showdown_hrm
from cleanpoke.envs.showdown.battle_page import battle_page
from cleanpoke.envs.showdown.client import BattleResult
from cleanpoke.envs.showdown.encoder import SCHEMA
from cleanpoke.envs.showdown.server import LocalServer
from cleanpoke.envs.showdown.teams import load_teams
from cleanpoke.errors import DISK_FULL, CleanPokeError
from cleanpoke.run import Checkpoint, plain, random_state, save_checkpoint
from tests.envs.showdown.websocket_battles import Opponent, input_log, logging_server, replayed_decisions
from tools.play_showdown import Args, Records, account, main, packed_teams, server_configuration

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


def test_a_full_disk_keeps_the_line_and_leaves_no_half_page(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as good as a full disk, to a writer
        with pytest.raises(OSError, match="File too large") as raised:
            Records(tmp_path, tmp_path / "checkpoint.pt", "gen1ou").add(result())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno in DISK_FULL  # which every command tells in one line
    assert [row["opponent"] for row in rows(tmp_path)] == ["Bob"]
    assert [path.name for path in tmp_path.iterdir()] == ["battles.csv"]


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


def tiny_checkpoint(folder, step=1, **changes):
    """A checkpoint of the tiny network that says it has been trained for gen1randombattle."""
    args = awac_showdown_hrm.Args(preset="tiny", gen=1, tier="randombattle", **changes)
    torch.manual_seed(0)
    network = awac_showdown_hrm.build_network(args).eval()
    # Louder heads than at initialisation, so that the likeliest action depends on what is seen.
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    state = {"slow": network.state_dict(), "golden_outputs": awac_showdown_hrm.golden_outputs(network)}
    path = folder / f"checkpoint_{step:09}.pt"
    save_checkpoint(
        Checkpoint(path, "awac_showdown_hrm", SCHEMA, step, plain(asdict(args)), random_state(), state)
    )
    return path


def test_checkpoint_decides_over_websockets_as_it_does_in_process(tmp_path, capsys):
    checkpoint = tiny_checkpoint(tmp_path)
    with logging_server() as server:
        opponent = Opponent("randomfoe", "gen1randombattle", server)
        opponent.accept()
        args = Args(
            tmp_path,  # the folder stands for its newest checkpoint
            challenge="randomfoe",
            server_url=server.websocket_url,
            username="netplayer",
            output_dir=tmp_path / "out",
            wait_minutes=1,
        )
        main(args)
        opponent.close()
        (line,) = rows(tmp_path / "out")
        log = input_log(server, line["page"].split("_")[1].removesuffix(".html"))
    assert line["opponent"] == "randomfoe"
    assert line["result"] in ("win", "loss", "tie")
    assert line["reason"] == "played"
    assert (line["checkpoint"], line["format"]) == (str(checkpoint), "gen1randombattle")
    assert "1/1" in capsys.readouterr().out
    page = (tmp_path / "out" / line["page"]).read_text(encoding="utf-8")
    assert 'class="battle-log-data"' in page
    assert "<h2>Turn 1</h2>" in page

    own = ">p1 " if '>player p1 {"name":"netplayer"' in log else ">p2 "
    chosen = [entry.removeprefix(own) for entry in log.split("\n") if entry.startswith(own)]
    assert len(chosen) > 5
    player = awac_showdown_hrm.make_network_player(checkpoint, "gen1randombattle")
    decisions = replayed_decisions("gen1randombattle", log, "netplayer")
    for choice, decision in zip(chosen, decisions, strict=True):
        assert decision.tracker.action_of(choice) == player.choose([decision])[0]


def test_unfit_checkpoints_are_refused(tmp_path):
    untrained = tiny_checkpoint(tmp_path, step=0)
    with pytest.raises(CleanPokeError, match="untrained"):
        main(Args(untrained, ladder=True))
    trained = tiny_checkpoint(tmp_path)
    with pytest.raises(CleanPokeError, match="unknown format 'gen1oo'.*gen1ou"):
        main(Args(trained, ladder=True, format="gen1oo"))
    with pytest.raises(CleanPokeError, match="cannot play gen9ou"):
        main(Args(trained, ladder=True, format="gen9ou"))
    contents = torch.load(trained, weights_only=True)
    torch.save({**contents, "schema": "of another age"}, tmp_path / "old.pt")
    with pytest.raises(CleanPokeError, match="schema of another age"):
        main(Args(tmp_path / "old.pt", ladder=True))
    contents["state"]["slow"].popitem()
    torch.save(contents, tmp_path / "short.pt")
    with pytest.raises(CleanPokeError, match="does not fit"):
        main(Args(tmp_path / "short.pt", ladder=True))


def test_ctrl_c_forfeits_and_keeps_the_record(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path)
    with LocalServer() as server:
        opponent = Opponent("endless", "gen1randombattle", server)
        command = [sys.executable, "tools/play_showdown.py", "--checkpoint", str(checkpoint)]
        command += ["--accept-challenges", "--battles", "50", "--username", "stopped"]
        command += ["--server-url", server.websocket_url, "--output-dir", str(tmp_path / "out")]
        environment = {**os.environ, "PYTHONPATH": "."}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                assert "stopped plays gen1randombattle" in process.stdout.readline()
                opponent.challenge("stopped", battles=50)
                assert process.stdout.readline().startswith("1/50")
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=30)
            finally:
                process.kill()
        opponent.close()
    assert process.returncode == 0
    assert "won" in output.splitlines()[-1]
    recorded = rows(tmp_path / "out")
    assert 1 <= len(recorded) < 50
    assert sum(line["reason"] == "forfeit" for line in recorded) <= 1
