"""Recorded agents: the scripted expert in parallel, a checkpoint, a file of one's own, a language model."""

import base64
import dataclasses
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cleanpoke.envs import episode_files
from cleanpoke.envs.emerald.core import BUTTONS, MISSING_MGBA
from cleanpoke.errors import CleanPokeError

if MISSING_MGBA:
    pytest.skip(MISSING_MGBA, allow_module_level=True)

from cleanpoke import bc_emerald, dagger_emerald, dqn_bc_emerald
from cleanpoke.envs.emerald import demos
from cleanpoke.envs.emerald.env import TINY_TOWN, EmeraldEnv
from cleanpoke.run import Checkpoint, plain, random_state, save_checkpoint
from tools import collect_expert_data, llm_agent
from tools.collect_expert_data import Args, Share, open_agent
from tools.llm_agent import LanguageModel, button_in

ROOT = Path(__file__).parents[2]
LANGUAGE_MODEL = f"{ROOT / 'tools/llm_agent.py'}:LanguageModel"
MINE = """
class Mine:
    def begin(self):
        self.count = 0

    def get_action(self, observation, info):
        self.count += 1
        return self.count
"""


@pytest.fixture
def record():
    """Records episodes in this process; their files."""
    threads = torch.get_num_threads()

    def in_this_process(args: Args) -> list[Path]:
        share = Share(args, list(range(args.episodes)))
        collect_expert_data.record_share(share, lambda report: None, lambda: False)
        return episode_files.episodes_in(args.output)

    yield in_this_process
    torch.set_num_threads(threads)


def test_processes_record_what_one_would_and_go_on_where_they_stopped(record, tmp_path, capsys):
    options = {"episodes": 3, "max_steps": 30, "noise": 0.3}
    expected = record(Args(tmp_path / "alone", **options))
    collect_expert_data.main(Args(tmp_path / "many", processes=2, **options))
    (tmp_path / "many" / "episode_00001.npz").unlink()
    before = (tmp_path / "many" / "episode_00000.npz").stat().st_mtime_ns
    collect_expert_data.main(Args(tmp_path / "many", processes=1, **options))
    assert (tmp_path / "many" / "episode_00000.npz").stat().st_mtime_ns == before
    for path in expected:
        assert (tmp_path / "many" / path.name).read_bytes() == path.read_bytes()
    assert "3 episodes" in capsys.readouterr().out


def test_a_folder_holds_one_player_and_one_kind_of_settings(record, tmp_path, capsys):
    env = EmeraldEnv()
    env.reset()
    env.save_state().save(tmp_path / "x.state")
    same = Args(tmp_path / "demos", episodes=2, max_steps=3, noise=0.3, processes=1)
    files = record(same)
    (tmp_path / "mine.py").write_text(MINE)
    for changes, message in (
        ({"agent": f"{tmp_path / 'mine.py'}:Mine"}, "recorded with player scripted, not .*mine.py:Mine"),
        ({"noise": 0.2}, r"recorded with noise 0\.3, not 0\.2"),
        ({"max_steps": 4}, "recorded with max_steps 3, not 4"),
        ({"seed": 2}, "recorded with seed 1, not 2"),
        ({"fixed": True}, "recorded with fixed False, not True"),
        ({"start_state": tmp_path / "x.state"}, "recorded with start_state None, not [0-9a-f]{40}"),
    ):
        with pytest.raises(CleanPokeError, match=f"{message}: keep such episodes in another folder"):
            collect_expert_data.main(dataclasses.replace(same, **changes))
    collect_expert_data.main(same)
    assert "all 2 episodes are there already; --episodes asks for more" in capsys.readouterr().out
    collect_expert_data.main(dataclasses.replace(same, episodes=3))
    assert len(episode_files.episodes_in(same.output)) == len(files) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": "nobody"}, "'nobody' is not there: give scripted, a checkpoint"),
        ({"agent": str(ROOT / "pyproject.toml")}, "damaged or not a CleanPoke checkpoint"),
        ({"agent": str(ROOT / "tests")}, r"holds no checkpoint_\*\.pt"),
        ({"output": Path(__file__)}, "choose another --output"),
        ({"rom_path": Path("none.gba")}, "check --rom-path"),
        ({"noise": 1.0}, "--noise"),
        ({"processes": -1}, "--processes at least 0"),
        ({"agent": str(ROOT / "tools/llm_agent.py")}, r"names no class: give .*llm_agent\.py:ClassName"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(tmp_path, changes, message):
    with pytest.raises(CleanPokeError, match=message):
        collect_expert_data.main(Args(**({"output": tmp_path} | changes)))


def test_other_cartridges_need_an_agent_and_a_folder_of_their_own(record, tmp_path):
    record(Args(tmp_path / "tiny", episodes=1, max_steps=5))
    content = bytearray(TINY_TOWN.read_bytes())
    content[0xAC:0xB0], content[0xBC] = b"BPEE", 0
    (tmp_path / "other.gba").write_bytes(content)
    with pytest.raises(CleanPokeError, match="the scripted expert cannot play"):
        collect_expert_data.main(Args(tmp_path / "tiny", rom_path=tmp_path / "other.gba"))
    agent = f"{ROOT / 'cleanpoke/envs/emerald/tiny_town/expert.py'}:Expert"
    theirs = Args(tmp_path / "tiny", rom_path=tmp_path / "other.gba", agent=agent)
    with pytest.raises(CleanPokeError, match="recorded with rom_sha1"):
        collect_expert_data.main(theirs)


def test_a_collection_that_is_stopped_ends_within_the_episode_and_drops_it(record, tmp_path):
    looks = iter([False] * 20 + [True])
    share = Share(Args(tmp_path, max_steps=1000), [0, 1])
    collect_expert_data.record_share(share, lambda report: None, lambda: next(looks))
    assert not list(tmp_path.iterdir()) and not list(looks)


def test_agents_of_ones_own_are_told_when_an_episode_begins(record, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    paths = record(Args(tmp_path, episodes=2, max_steps=4, noise=0.0, agent=f"{tmp_path / 'mine.py'}:Mine"))
    assert [demos.load_episode(path).actions.tolist() for path in paths] == 2 * [[1, 2, 3, 4]]
    with pytest.raises(CleanPokeError, match="has no class Other with a method get_action"):
        open_agent(Args(agent=f"{tmp_path / 'mine.py'}:Other"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def get_action(self, observation, info): return 'UP'", "answered 'UP': it must be the number"),
        ("def get_action(self, observation, info): pass", "answered None: it must be the number .* 0 … 9"),
        ("def get_action(self, observation, info): return 10", "answered 10: it must be the number"),
        (
            "get_action = print\n    def __init__(self, x): pass",
            "argument: 'x'; it is made without arguments",
        ),
    ],
)
def test_agents_that_do_not_play_along_are_told_in_one_line(record, tmp_path, code, message):
    (tmp_path / "mine.py").write_text(f"class Mine:\n    {code}\n")
    with pytest.raises(CleanPokeError, match=message):
        record(Args(tmp_path / "demos", agent=f"{tmp_path / 'mine.py'}:Mine"))
    assert not (tmp_path / "demos").exists()


def test_what_an_agent_of_ones_own_has_played_is_kept_when_it_is_cut_off(record, tmp_path, capsys):
    """By an error of its own, or because the collection is stopped."""
    (tmp_path / "mine.py").write_text(MINE)  # names a button that is none in the end
    args = Args(tmp_path / "demos", episodes=1, noise=0.0, agent=f"{tmp_path / 'mine.py'}:Mine")
    with pytest.raises(CleanPokeError, match="answered 10"):
        record(args)
    looks, reports = iter([False] * 6 + [True]), []
    collect_expert_data.record_share(Share(args, [1, 2]), reports.append, lambda: next(looks))
    assert [report[0] for report in reports] == [6] and not list(looks)
    for path, length in zip(episode_files.episodes_in(args.output), (9, 6), strict=True):
        episode = demos.load_episode(path)
        assert episode.actions.tolist() == list(range(1, length + 1)) and episode.truncations[-1]
        again = demos.replay(path.with_suffix(".demo"), EmeraldEnv(variant="random"))
        assert (again.final_observation == episode.final_observation).all()
    assert "episode_00001.npz: cut off after 6 steps, which are kept" in capsys.readouterr().out


# --- Checkpoints


def checkpoint(path: Path, script: str = "bc_emerald", **changes) -> Path:
    """An untrained network, which is as good as any other here."""
    args = bc_emerald.Args(hidden=16, height=24, width=36, frame_stack=2, previous_action=True, bf16="off")
    torch.manual_seed(7)
    weights = bc_emerald.Network(args).state_dict()
    weights["hidden.weight"][:, -11:] *= 1000  # else it would press one button all the time
    arguments = plain(dataclasses.asdict(args)) | changes
    save_checkpoint(Checkpoint(path, script, "", 5, arguments, random_state(), {"network": weights}))
    return path


def test_a_checkpoint_plays_each_episode_as_its_evaluation_does(record, tmp_path):
    path = checkpoint(tmp_path / "checkpoint_000000005.pt")
    for agent, folder in ((path, "file"), (tmp_path, "folder")):  # a run folder stands for its newest one
        record(Args(tmp_path / folder, episodes=2, max_steps=40, agent=str(agent), noise=0.5))
    player = bc_emerald.open_player(path)
    for number in range(2):
        episode = demos.load_episode(tmp_path / "file" / f"episode_{number:05}.npz")
        player.begin()
        again = []
        for screen, pressed in zip(episode.observations, episode.actions, strict=True):
            again.append(player.get_action(screen, {}))
            player.remember(int(pressed))
        assert again == episode.labels.tolist() and len(set(again)) > 2
        assert episode.meta["player"] == str(path)
        other = demos.load_episode(tmp_path / "folder" / f"episode_{number:05}.npz")
        assert other.labels.tolist() == again


@pytest.mark.parametrize(("script", "network"), [(dqn_bc_emerald, "QNetwork"), (dagger_emerald, "Network")])
def test_checkpoints_of_all_scripts_play(record, tmp_path, script, network):
    args = script.Args(hidden=16, height=24, width=36, bf16="off")
    weights = getattr(script, network)(args).state_dict()
    arguments, name = plain(dataclasses.asdict(args)), Path(script.__file__).stem
    path = tmp_path / "best.pt"
    save_checkpoint(Checkpoint(path, name, "", 5, arguments, random_state(), {"network": weights}))
    (file,) = record(Args(tmp_path / "played", episodes=1, max_steps=12, agent=str(path), noise=0.0))
    player, episode = script.open_player(path), demos.load_episode(file)
    assert [player.get_action(screen, {}) for screen in episode.observations] == episode.actions.tolist()


def test_checkpoints_that_do_not_fit_are_told(tmp_path):
    with pytest.raises(CleanPokeError, match=r"written by ppo\.py: give a checkpoint of bc_emerald\.py or"):
        open_agent(Args(agent=str(checkpoint(tmp_path / "other.pt", "ppo"))))
    with pytest.raises(CleanPokeError, match=r"smaller\.pt holds another network"):
        open_agent(Args(agent=str(checkpoint(tmp_path / "smaller.pt", hidden=8))))


# --- The language model, and a server that speaks as its own would


@pytest.fixture
def server(monkeypatch):
    """`answers`: its next ones, a status or a text; `requests`: (path, headers, body) of what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.requests.append((self.path, dict(self.headers), json.loads(body)))
            answer = server.answers.pop(0) if server.answers else "BUTTON: A"
            if answer == "silence":
                server.silence.wait(10)
            self.send_response(answer if isinstance(answer, int) else 200)
            self.end_headers()
            message = {"role": "assistant", "content": answer}
            content = {"error": "wrong"} if isinstance(answer, int) else {"choices": [{"message": message}]}
            self.wfile.write(b"<html>" if answer == "html" else json.dumps(content).encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.requests, server.silence = [], [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("LLM_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1/")
    monkeypatch.setenv("LLM_MODEL", "small")
    monkeypatch.setenv("LLM_API_KEY", "secret")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(llm_agent, "FIRST_PAUSE", 0.01)
    yield server
    server.silence.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, dict]:
    """In the bedroom of the standard town."""
    env = EmeraldEnv()
    env.reset()
    for button in ("START", "LEFT", "LEFT", "A", "UP"):
        observation, _, _, _, info = env.step(BUTTONS.index(button))
    return observation, info


def test_the_model_is_sent_the_screen_and_what_memory_says(server, scene):
    model = LanguageModel()
    server.answers += ["I should go down.\nBUTTON: DOWN"]
    assert model.get_action(*scene) == BUTTONS.index("DOWN")
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    instructions, question = body["messages"]
    assert (body["model"], instructions["role"], question["role"]) == ("small", "system", "user")
    text, image = question["content"]
    kind, _, data = image["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == scene[0]).all()
    state = scene[1]["state"]
    assert f"Map 1.1, at ({state.x}, {state.y}), facing" in text["text"]
    assert "Next milestone: CLOCK_SET" in text["text"] and "@" in text["text"]
    model.get_action(*scene)
    assert f"DOWN at ({state.x}, {state.y})" in server.requests[1][2]["messages"][1]["content"][0]["text"]
    model.begin()
    model.get_action(*scene)
    assert "last buttons" not in server.requests[2][2]["messages"][1]["content"][0]["text"]


@pytest.mark.parametrize(
    ("answer", "button"),
    [
        ("A person stands there. I go UP.\nBUTTON: UP", "UP"),
        ("**BUTTON: `start`**", "START"),
        ("First BUTTON: A, no: BUTTON: B", "B"),
        ("Let me see.\nright.", "RIGHT"),
        ("A", "A"),
        ("A door is ahead, so I walk", None),
        ("BUTTON: JUMP", None),
        ("", None),
    ],
)
def test_the_button_is_found_in_an_answer(answer, button):
    assert button_in(answer) == button


def test_answers_without_a_button_and_failures_are_tried_again(server, scene):
    server.answers += ["I do not know.", 503, 429, "BUTTON: L"]
    assert LanguageModel().get_action(*scene) == BUTTONS.index("L")
    assert [len(body["messages"]) for _, _, body in server.requests] == [2, 4, 4, 4]
    assert "names no button" in server.requests[1][2]["messages"][3]["content"]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (3 * ["hm"], "named no button in 3 answers, the last 'hm'"),
        ([401], "refuses: HTTP 401 .*check LLM_BASE_URL, LLM_MODEL and LLM_API_KEY"),
        (3 * [500], "no answer from .* in 3 attempts .HTTP 500"),
        (["html"], "does not answer as OpenAI's chat protocol does"),
        (3 * ["silence"], "no answer within 0.2 s"),
    ],
)
def test_a_server_that_does_not_help_is_told_in_one_line(server, scene, monkeypatch, answers, message):
    monkeypatch.setenv("LLM_TIMEOUT", "0.2" if "silence" in answers else "20")
    server.answers += answers
    with pytest.raises(CleanPokeError, match=message):
        LanguageModel().get_action(*scene)
    assert len(server.requests) == len(answers)


def test_no_server_and_no_name_are_told_in_one_line(scene, monkeypatch):
    monkeypatch.delenv("LLM_MODEL", raising=False)
    with pytest.raises(CleanPokeError, match="export LLM_BASE_URL="):
        open_agent(Args(agent=LANGUAGE_MODEL))
    monkeypatch.setattr(llm_agent, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("LLM_MODEL", "small")
    monkeypatch.setenv("LLM_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(CleanPokeError, match="in 3 attempts .*is the server running"):
        LanguageModel().get_action(*scene)
    for seconds, message in (("soon", "is no number"), ("600", "is 600: give at most 540"), ("nan", "nan")):
        monkeypatch.setenv("LLM_TIMEOUT", seconds)
        with pytest.raises(CleanPokeError, match=f"LLM_TIMEOUT {message}|LLM_TIMEOUT is {message}"):
            LanguageModel()


def test_a_slow_server_has_so_long_for_a_step_and_no_longer(server, scene, monkeypatch):
    monkeypatch.setattr(llm_agent, "STEP_SECONDS", 0.5)
    monkeypatch.setenv("LLM_TIMEOUT", "0.4")
    server.answers += 3 * ["silence"]
    with pytest.raises(CleanPokeError, match="no answer within 0"):
        LanguageModel().get_action(*scene)
    assert len(server.requests) == 2


def test_a_language_model_is_recorded_from_the_command_line(server, tmp_path):
    server.answers += ["BUTTON: START", "BUTTON: LEFT", "LEFT", "BUTTON: A"]
    options = {"episodes": 1, "max_steps": 6, "noise": 0.0, "processes": 1}
    collect_expert_data.main(Args(tmp_path, agent=LANGUAGE_MODEL, **options))
    episode = demos.load_episode(tmp_path / "episode_00000.npz")
    assert [BUTTONS[action] for action in episode.actions] == ["START", "LEFT", "LEFT", "A", "A", "A"]
    assert len(server.requests) == 6
