"""A battle's log as one HTML file: a readable story, and online Showdown's animated replay."""

import html
from collections.abc import Callable

REPLAY_VIEWER = "https://play.pokemonshowdown.com/js/replay-embed.js"

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em; }}
h2 {{ font-size: 1em; margin: 1.2em 0 0.2em; border-top: 1px solid #ccc; padding-top: 0.6em; }}
p {{ margin: 0; }}
.minor {{ color: #777; padding-left: 1.2em; }}
</style>
</head>
<body>
<div class="wrapper replay-wrapper">
<input type="hidden" name="replayid" value="{room}">
<div class="battle"></div><div class="battle-log"></div><div class="replay-controls"></div>
<script type="text/plain" class="battle-log-data">
{log}
</script>
</div>
<h1>{title}</h1>
{story}
<script src="{viewer}"></script>
</body>
</html>
"""

STATUSES = {
    "brn": "burned",
    "frz": "frozen",
    "par": "paralyzed",
    "psn": "poisoned",
    "slp": "asleep",
    "tox": "badly poisoned",
}


def _name(ident: str) -> str:
    """Turns "p1a: Tauros" into "Tauros (p1)"."""
    seat, _, name = ident.partition(": ")
    return f"{name} ({seat[:2]})" if name else ident


def _boost(words: list[str], verb: str) -> str:
    return f"{_name(words[0])}'s {words[1]} {verb} by {words[2]}"


# What a line means, by its kind; `words` are its fields after the kind.
STORY: dict[str, Callable[[list[str]], str]] = {
    "player": lambda words: f"{words[0]} is {words[1]}",
    "poke": lambda words: f"{words[0]} has {words[1]}",
    "switch": lambda words: f"{_name(words[0])} enters as {words[1]} at {words[2]}",
    "drag": lambda words: f"{_name(words[0])} is dragged in as {words[1]} at {words[2]}",
    "replace": lambda words: f"{_name(words[0])} was {words[1]} all along",
    "move": lambda words: f"{_name(words[0])} uses {words[1]}",
    "cant": lambda words: f"{_name(words[0])} cannot move ({words[1]})",
    "faint": lambda words: f"{_name(words[0])} faints",
    "win": lambda words: f"{words[0]} wins",
    "tie": lambda words: "The battle ends in a tie",
    "-message": lambda words: words[0],
    "-damage": lambda words: f"{_name(words[0])} falls to {words[1]}",
    "-heal": lambda words: f"{_name(words[0])} recovers to {words[1]}",
    "-status": lambda words: f"{_name(words[0])} is {STATUSES.get(words[1], words[1])}",
    "-curestatus": lambda words: f"{_name(words[0])} is no longer {STATUSES.get(words[1], words[1])}",
    "-boost": lambda words: _boost(words, "rises"),
    "-unboost": lambda words: _boost(words, "falls"),
    "-crit": lambda words: "A critical hit",
    "-supereffective": lambda words: "It is super effective",
    "-resisted": lambda words: "It is not very effective",
    "-immune": lambda words: f"{_name(words[0])} is immune",
    "-miss": lambda words: f"{_name(words[0])} misses",
    "-fail": lambda words: f"It fails on {_name(words[0])}",
    "-weather": lambda words: f"Weather: {words[0]}",
    "-terastallize": lambda words: f"{_name(words[0])} terastallizes into {words[1]}",
}


def _paragraph(line: str) -> str:
    """One line of the log in words, as HTML; "" when it says nothing to a reader."""
    if not line.startswith("|"):
        return ""
    _, kind, *words = line.split("|")
    if kind == "turn":
        return f"<h2>Turn {html.escape(words[0])}</h2>"
    if kind in STORY:
        try:
            text = STORY[kind](words)
        except IndexError:
            text = " ".join(words)
    elif kind.startswith("-") and kind != "-hint":  # a minor action without words of its own
        text = f"{kind[1:]}: {', '.join(map(_name, words))}"
    else:
        return ""
    source = next((word.removeprefix("[from] ") for word in words if word.startswith("[from] ")), "")
    text += f" ({source})" if source and source not in text else ""
    style = ' class="minor"' if kind.startswith("-") else ""
    return f"<p{style}>{html.escape(text)}</p>"


def battle_page(room: str, title: str, log: list[str]) -> str:
    """The HTML page of a battle. log: the lines of its room, as one player or a spectator sees them."""
    # Nothing in a chat message may end the script element; the viewer reads "<\\/" as "</".
    raw = "\n".join(log).replace("</", r"<\/").replace("<!--", "&lt;!--")
    return PAGE.format(
        title=html.escape(title),
        room=html.escape(room),
        log=raw,
        story="\n".join(filter(None, map(_paragraph, log))),
        viewer=REPLAY_VIEWER,
    )
