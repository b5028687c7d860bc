"""A language model that plays: an example of an agent for tools/collect_expert_data.py.

    export LLM_BASE_URL=http://localhost:8000/v1 LLM_MODEL=<name> LLM_API_KEY=<key, if the server wants one>
    python tools/collect_expert_data.py --agent tools/llm_agent.py:LanguageModel --episodes 1 --noise 0 \\
        --processes 1 --output expert_data/llm

Any server that speaks the chat protocol of OpenAI will do (vLLM, llama.cpp, Ollama, OpenAI itself). At each
step it is sent the screen as a PNG and what memory says as text, and answers with the name of a button.
LLM_TIMEOUT: seconds to wait for an answer, 60 by default, 540 at most.
"""

import base64
import http.client
import io
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections import deque
from typing import Any

import numpy as np
from PIL import Image

from cleanpoke.envs.emerald.core import BUTTONS
from cleanpoke.envs.emerald.memory import GameState
from cleanpoke.envs.emerald.milestones import NAMES
from cleanpoke.errors import CleanPokeError

ATTEMPTS = 3
"""How often one step is asked for before the collection ends."""
STEP_SECONDS = 540.0
"""For one step, with all attempts: a collection ends when nothing has happened for 600 s."""
FIRST_PAUSE = 1.0
"""Seconds before the second attempt after a failure; twice as many before the third."""
REMEMBERED = 12
"""Steps whose buttons the model is reminded of: it sees one screen only."""
SIGHT = 5
"""How many tiles around the player it is told about, in each direction."""
FACING = {1: "down", 2: "up", 3: "left", 4: "right"}
INSTRUCTIONS = """You play a role-playing game on a handheld console, one button at a time.
The arrows turn and walk one tile, A talks, examines and confirms, B cancels, START opens the menu.
Reach the next milestone. If the last buttons changed nothing, try another one.
Think in a sentence or two. Then end with a line that names one button, in this form:
BUTTON: UP
The buttons are """ + ", ".join(BUTTONS)


class LanguageModel:
    """Asks an OpenAI-compatible server for each button. The server's address comes from the environment."""

    def __init__(self) -> None:
        """Raises CleanPokeError if LLM_BASE_URL or LLM_MODEL is missing, or LLM_TIMEOUT is no number."""
        base_url, self.model = os.environ.get("LLM_BASE_URL", ""), os.environ.get("LLM_MODEL", "")
        if not base_url.startswith(("http://", "https://")) or not self.model:
            raise CleanPokeError(
                "the language model is not named: export LLM_BASE_URL=http://localhost:8000/v1 "
                "LLM_MODEL=<name> (and LLM_API_KEY, if the server wants one)"
            )
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.key = os.environ.get("LLM_API_KEY", "")
        try:
            self.timeout = float(os.environ.get("LLM_TIMEOUT", "60"))
        except ValueError as error:
            raise CleanPokeError(f"LLM_TIMEOUT is no number of seconds: {error}") from error
        if not 0 < self.timeout <= STEP_SECONDS:
            raise CleanPokeError(f"LLM_TIMEOUT is {self.timeout:g}: give at most {STEP_SECONDS:g} seconds")
        self.begin()

    def begin(self) -> None:
        """A new episode."""
        self.past: deque[str] = deque(maxlen=REMEMBERED)

    def get_action(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        """observation (h, w, 1 or 3) uint8; info: of EmeraldEnv. Returns an index into BUTTONS.

        Raises CleanPokeError if the server cannot be reached or never names a button.
        """
        content = [
            {"type": "text", "text": describe(info, list(self.past))},
            {"type": "image_url", "image_url": {"url": png_url(observation)}},
        ]
        messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": content}]
        answer, deadline = "", time.monotonic() + STEP_SECONDS
        for _ in range(ATTEMPTS):
            answer = self.ask(messages, deadline)
            button = button_in(answer)
            if button is not None:
                state = info["state"]
                self.past.append(f"{button} at ({state.x}, {state.y})" if state else button)
                return BUTTONS.index(button)
            complaint = "That names no button. End with a line such as BUTTON: UP"
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": complaint}]
        raise CleanPokeError(
            f"{self.model} at {self.url} named no button in {ATTEMPTS} answers, the last {answer[:80]!r}: "
            "try another model"
        )

    def ask(self, messages: list[dict[str, Any]], deadline: float) -> str:
        """The answer to a conversation. Failures that may pass are tried again after a pause.

        deadline: of time.monotonic(), when this step must be decided.
        """
        request = urllib.request.Request(
            self.url,
            json.dumps({"model": self.model, "messages": messages}).encode(),
            {"Content-Type": "application/json"},
        )
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        problem = f"the {STEP_SECONDS:g} s for one step are over"
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
            seconds = min(self.timeout, deadline - time.monotonic())
            if seconds <= 0:
                break
            try:
                with urllib.request.urlopen(request, timeout=seconds) as response:
                    answer = json.load(response)
                return str(answer["choices"][0]["message"]["content"] or "")
            except urllib.error.HTTPError as error:
                said = error.read(300).decode("utf-8", "replace")
                problem = f"HTTP {error.code} {said}"
                if error.code != 429 and error.code < 500:
                    raise CleanPokeError(
                        f"{self.url} refuses: {problem}; check LLM_BASE_URL, LLM_MODEL and LLM_API_KEY"
                    ) from error
            except TimeoutError:
                problem = f"no answer within {seconds:.3g} s"
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise CleanPokeError(
                    f"{self.url} does not answer as OpenAI's chat protocol does: check LLM_BASE_URL"
                ) from error
        raise CleanPokeError(
            f"no answer from {self.url} in {ATTEMPTS} attempts ({problem}): is the server running? Check "
            "LLM_BASE_URL"
        )


def button_in(answer: str) -> str | None:
    """The button that an answer names: the last "BUTTON: name", or a last line that is nothing but a name."""
    named = re.findall(r"BUTTON\W*\b(" + "|".join(BUTTONS) + r")\b", answer.upper())
    if named:
        return named[-1]
    last_line = answer.strip().rpartition("\n")[2].strip(" .*`\"'").upper()
    return last_line if last_line in BUTTONS else None


def png_url(observation: np.ndarray) -> str:
    """The screen as a data URL."""
    grey = observation.shape[2] == 1
    file = io.BytesIO()
    Image.fromarray(observation[..., 0] if grey else observation).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def describe(info: dict[str, Any], past: list[str]) -> str:
    """What memory says, for a reader of text."""
    reached = info["milestones"]
    lines = [f"Step {info['steps']}. Milestones reached: {', '.join(reached) or 'none'}."]
    following = [name for name in NAMES if name not in reached]
    if following:
        lines.append(f"Next milestone: {following[0]}.")
    state: GameState | None = info["state"]
    if state is None:
        lines.append("No game has begun yet: this is a title or an introduction.")
    else:
        facing = FACING.get(state.facing, "somewhere")
        lines.append(f"Map {state.map[0]}.{state.map[1]}, at ({state.x}, {state.y}), facing {facing}.")
        lines.append(f"Badges: {state.badges}. Money: {state.money}.")
        for number, member in enumerate(state.party, start=1):
            health = f"{member.hp} of {member.max_hp} HP"
            lines.append(f"Party {number}: species {member.species}, level {member.level}, {health}.")
        if state.text:
            lines.append(f"A box says: {' '.join(state.text.split())}")
        elif state.controls_locked:
            lines.append("A menu is open, or a scene is playing.")
        if state.in_battle:
            lines.append("A battle is on.")
        else:
            lines += ["Around you, north on top (@ you, ! somebody, # in the way):", *surroundings(info)]
    if past:
        lines.append(f"Your last buttons, oldest first: {', '.join(past)}.")
    return "\n".join(lines)


def surroundings(info: dict[str, Any]) -> list[str]:
    """The map around the player, north on top, one character for each tile."""
    state, blocked = info["state"], info["map_blocked"]
    height, width = blocked.shape
    people = {(one.x, one.y) for one in info["objects"][1:]}
    rows = []
    for y in range(max(state.y - SIGHT, 0), min(state.y + SIGHT + 1, height)):
        row = ""
        for x in range(max(state.x - SIGHT, 0), min(state.x + SIGHT + 1, width)):
            ground = "#" if blocked[y, x] else "."
            row += "@" if (x, y) == (state.x, state.y) else "!" if (x, y) in people else ground
        rows.append(row)
    return rows
