"""Learns to battle from recorded Pokémon Showdown battles: offline actor-critic (AWAC) on an HRM.

A recurrent reasoning network (HRM, Wang et al. 2025; TRM, Jolicoeur-Martineau 2025) reads one decision as a
dozen slot tokens, an attention memory mixes decisions over time, pointer heads score the 13 actions. Learns
by advantage-weighted actor-critic (AWAC, Nair et al. 2020) with distributional critics (Farebrother et al.
2024) at four discounts, as metamon (Grigsby et al. 2025) did with transformers.

    python cleanpoke/awac_showdown_hrm.py --gen 1
    torchrun --nproc_per_node=2 cleanpoke/awac_showdown_hrm.py --gen 1

Equations, every logged metric and measured results: docs/awac_showdown_hrm.md.
Axes: B battles, T steps of the longest battle, M decisions (rows, with fillers), S tokens, R registers,
D width, H heads, A actions, G discounts, C critics, K value bins.
"""

import copy
import dataclasses
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cleanpoke.compute import autocast, available_cores, global_sums, start, sum_gradients
from cleanpoke.envs.showdown import arena, battle_files, collection
from cleanpoke.envs.showdown.encoder import (
    NUM_ACTIONS,
    NUM_NUMBERS,
    NUM_WORDS,
    SCHEMA,
    SLOT_KINDS,
    VOCABULARY_SIZE,
)
from cleanpoke.envs.showdown.players import Key, PlayerFactory, make_player
from cleanpoke.envs.showdown.teams import format_id
from cleanpoke.errors import CleanPokeError, user_errors
from cleanpoke.run import (
    Checkpoint,
    Run,
    load_checkpoint,
    parse_arguments,
    restore_random_state,
    saved_arguments,
    seed_everything,
)
from cleanpoke.terminal import Progress, StopSignal

if TYPE_CHECKING:
    from cleanpoke.envs.showdown.arena import Decision
    from cleanpoke.envs.showdown.simulator import Message

SCRIPT = Path(__file__).stem
STATE_KEYS = ("network", "slow", "optimizer", "sampler", "seconds", "data", "golden_outputs")
"""What a checkpoint holds: enough to go on exactly where it was saved."""

GAMMAS = (0.9, 0.97, 0.99, 0.999)
"""Discounts per decision; the last one acts."""
NUM_BINS, VALUE_LIMIT = 41, 1.5
"""The critics' value bins lie evenly on [-VALUE_LIMIT, VALUE_LIMIT]; returns lie within about ±1.2."""
NUM_REGISTERS = 3
"""Extra tokens that gather the decision for the memory, and bring the memory back. Three make 16 tokens: on
CPU a softmax over rows of 16 floats takes a twelfth of the time of one over rows of 15."""
HELD_OUT_BATCHES = 8
"""So many batches of held-out battles are measured."""
ROWS_MULTIPLE, STEPS_MULTIPLE = 64, 16
"""Training batches are filled up to multiples of these, so that few shapes occur: oneDNN compiles each matrix
product for each new shape, which takes longer than the product."""
POOLED_KIND = "opponent_bench"
"""No action points at the opponent's bench, so its five members share one token."""


def token_spans() -> dict[str, slice]:
    """Where the tokens of each slot kind lie on the token axis; the registers follow."""
    spans, start = {}, 0
    for kind in SLOT_KINDS:
        stop = start + (1 if kind.name == POOLED_KIND else kind.count)
        spans[kind.name], start = slice(start, stop), stop
    return spans


TOKEN_SPANS = token_spans()
NUM_TOKENS = TOKEN_SPANS[SLOT_KINDS[-1].name].stop


class Preset(NamedTuple):
    """Sizes of one network. Cycles as in HRM: a high-level step follows `low_cycles` low-level steps."""

    width: int
    heads: int
    core_layers: int
    memory_layers: int
    word_width: int
    hidden: int
    critics: int
    high_cycles: int
    """High-level steps before the memory; after it there is one per supervised segment."""
    low_cycles: tuple[int, int]
    """Low-level steps per high-level one, before and after the memory."""
    segments: int
    learning_rate: float


PRESETS = {
    "tiny": Preset(64, 4, 1, 1, 32, 128, 2, 1, (1, 1), 1, 1e-3),
    "small": Preset(96, 3, 1, 2, 48, 128, 2, 1, (1, 1), 1, 1e-3),
    "medium": Preset(320, 5, 3, 3, 96, 512, 4, 2, (2, 2), 2, 3e-4),
    "large": Preset(512, 8, 4, 7, 128, 768, 4, 2, (2, 2), 2, 1.5e-4),
    "xlarge": Preset(1152, 16, 4, 6, 192, 1024, 4, 2, (2, 2), 2, 1e-4),
}


@dataclasses.dataclass
class Args:
    # Run
    seed: int = 1
    """Seed of initialisation, batches and evaluation battles."""
    resume: Path | None = None
    """Checkpoint or run folder to continue, with its arguments where you give no others."""
    runs: Path = Path("runs")
    """Where the run's own folder goes."""
    total_steps: int = 3000
    """Updates."""
    max_minutes: float = 10.0
    """Training ends after this wall-clock time (without evaluations) if not before. The learning rate falls
    to a tenth towards whichever end comes first; only with "inf" is a resumed run bit-exactly the same."""
    save_every: int = 500
    """Updates between checkpoints."""
    log_every: int = 20
    """Updates between points in TensorBoard."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """bfloat16 matrix products with float32 weights; auto: where the hardware multiplies bfloat16."""
    threads: int = 0
    """CPU threads per process; 0: the available cores divided by the number of processes."""

    # World
    gen: int = 1
    """Generation of the games: 1 or 9."""
    tier: Literal["ou", "randombattle"] | None = None
    """ou: teams from the team list; randombattle: generated ones; default: generated in Gen 9, else ou."""
    data: Path | None = None
    """Folder of battle files; default expert_data/<format>. Battles are collected first if it has none."""
    players: tuple[str, ...] = (*4 * ("tactician:0.2",), "simple_heuristics", "max_base_power")
    """Who plays the collected battles, as in tools/collect_battles.py."""
    collect_battles: int = 10_000
    """How many battles to collect at most."""
    collect_minutes: float = 3.0
    """How long to collect at most."""
    held_out: float = 0.05
    """Fraction of the battles that is never trained on, only measured."""

    # Network
    preset: Literal["tiny", "small", "medium", "large", "xlarge"] = "small"
    """Size of the network; xlarge has 200M parameters."""
    traj_encoder: Literal["hrm", "transformer"] = "hrm"
    """transformer: the control, plain pre-norm layers of the same sizes instead of the recurrences."""
    mem_window: int = 64
    """How many decisions back each memory layer sees, its own included."""
    n_sup: int | None = None
    """Supervised segments after the memory; default by preset."""
    grad_mode: Literal["last_cycle", "one_step", "full"] = "last_cycle"
    """How much of the recurrence is differentiated: the last high-level cycle, the last two steps, all."""

    # Learning
    batch_decisions: int = 512
    """Decisions per update, over all processes; batches hold whole battles."""
    learning_rate: float | None = None
    """Peak learning rate; default by preset."""
    warmup_steps: int = 100
    """Updates in which the learning rate rises to its peak."""
    weight_decay: float = 0.1
    """AdamW's, on matrices only."""
    clip_norm: float = 1.0
    """Largest global gradient norm."""
    ema_rate: float = 0.005
    """Step of the slow copy that gives targets, advantages and evaluation towards the network."""
    reward: Literal["shaped", "binary"] = "shaped"
    """binary: ±1 for win and loss; shaped: plus a hundredth of HP, status and knock-out changes."""
    td_lambda: float = 0.95
    """Share of what really followed, against the critics' own estimates, in their targets: one-step targets
    (0) take thousands of updates to carry a win back through thirty decisions."""
    adv_filter: Literal["bc", "binary", "soft_binary", "exp"] = "exp"
    """Weight of a recorded action with advantage A: 1; A > 0; 1 or 0.2; exp(beta · normalised A)."""
    beta: float = 1.0
    """Sharpness of the exp filter, per standard deviation of the advantages."""
    maxq_coef: float = 0.0
    """Weight of the term that maximises the expected Q of the policy."""
    critic_coef: float = 1.0
    """Weight of the critics' loss beside the actor's."""

    # Evaluation
    eval_every: int = 0
    """Updates between evaluations by battles; 0: only at the end."""
    eval_battles: int = 250
    """Battles per opponent at the end, for each of greedy and sampled play; 0: no evaluation."""
    eval_battles_between: int = 50
    """The same for the evaluations on the way."""
    held_out_every: int = 250
    """Updates between measurements on held-out battles."""
    opponents: tuple[str, ...] = ("random", "max_base_power", "simple_heuristics")
    """Player specifications as tools/collect_battles.py takes them."""

    @property
    def format(self) -> str:
        return format_id(self.gen, self.tier)

    @property
    def data_folder(self) -> Path:
        return self.data or Path("expert_data") / self.format


# --- Network ----------------------------------------------------------------------------------------------


def normalize(x: Tensor) -> Tensor:
    """LayerNorm without gain or bias. HRM takes the root mean square only; this one is a fused CPU kernel."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-5)


def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """A linear layer with truncated LeCun-normal weights, as in HRM, and zero biases."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    std = inputs**-0.5
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of (…, H, S, D/H) each; a mask is True where a query sees a key."""
    if queries.is_cuda:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    # On CPU the fused kernel's backward pass takes longer for as few tokens as one decision has.
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT  # (…, H, S, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    softmax_type = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(-1, dtype=softmax_type).to(values.dtype) @ values


class Layer(nn.Module):
    """Self-attention and SwiGLU with residual connections; normalised after each (HRM) or before each."""

    def __init__(self, width: int, heads: int, post_norm: bool):
        super().__init__()
        self.heads, self.post_norm = heads, post_norm
        inner = 256 * math.ceil(round(4 * width * 2 / 3) / 256)
        self.queries_keys_values = linear(width, 3 * width)
        self.attended = linear(width, width)
        # Two layers, not halves of one: on CPU gated products of contiguous tensors take half the time.
        self.gate, self.up = linear(width, inner), linear(width, inner)
        self.down = linear(inner, width)

    def mix(self, x: Tensor, attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        heads = self.queries_keys_values(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0)
        queries, keys, values = heads.transpose(-3, -2)  # (…, H, S, D/H) each
        return self.attended(attention(queries, keys, values).transpose(-3, -2).flatten(-2))

    def feed(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))

    def forward(self, x: Tensor, attention: Callable[[Tensor, Tensor, Tensor], Tensor] = attend) -> Tensor:
        """x: (…, S, D) to the same shape; `attention` maps queries, keys, values to (…, H, S, D/H)."""
        if self.post_norm:
            x = normalize(x + self.mix(x, attention))
            return normalize(x + self.feed(x))
        x = x + self.mix(normalize(x), attention)
        return x + self.feed(normalize(x))


class TurnEncoder(nn.Module):
    """Words and numbers of one decision to its slot tokens: one projection per kind of slot."""

    def __init__(self, width: int, word_width: int):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY_SIZE, word_width, padding_idx=0)
        nn.init.trunc_normal_(self.words.weight)
        self.words.weight.data[0] = 0.0
        self.kinds = nn.Parameter(torch.randn(len(SLOT_KINDS), width))
        inputs = [kind.num_words * word_width + kind.num_numbers for kind in SLOT_KINDS]
        self.projections = nn.ModuleList(linear(size, width) for size in inputs)

    def forward(self, words: Tensor, numbers: Tensor) -> Tensor:
        """words (M, NUM_WORDS) integers, numbers (M, NUM_NUMBERS) floats to tokens (M, NUM_TOKENS, D)."""
        words_of = words.split([kind.count * kind.num_words for kind in SLOT_KINDS], 1)
        numbers_of = numbers.split([kind.count * kind.num_numbers for kind in SLOT_KINDS], 1)
        tokens = []
        for index, kind in enumerate(SLOT_KINDS):
            # One product for the words and one for the numbers: gluing them together would copy the words.
            weight = self.projections[index].weight
            for_words, for_numbers = weight.tensor_split([kind.num_words * self.words.embedding_dim], 1)
            embedded = self.words(words_of[index]).view(len(words), kind.count, for_words.shape[1])
            plain = numbers_of[index].reshape(len(words), kind.count, kind.num_numbers).to(weight.dtype)
            projected = F.linear(embedded, for_words) + F.linear(plain, for_numbers)  # (M, count, D)
            if kind.name == POOLED_KIND:
                projected = projected.sum(1, keepdim=True)
            tokens.append(projected + self.kinds[index].to(projected.dtype))
        return normalize(torch.cat(tokens, 1))


State = tuple[Tensor, Tensor]
"""The reasoning state (high, low), (M, S, D) each."""


class HRMCore(nn.Module):
    """Two coupled recurrences through one shared stack of layers: low reasons, high sums up (HRM, TRM)."""

    def __init__(self, preset: Preset, grad_mode: str):
        super().__init__()
        self.grad_mode = grad_mode
        self.layers = nn.ModuleList(
            Layer(preset.width, preset.heads, post_norm=True) for _ in range(preset.core_layers)
        )
        self.register_buffer("start_high", torch.randn(preset.width))
        self.register_buffer("start_low", torch.randn(preset.width))

    def begin(self, x: Tensor) -> State:
        return self.start_high.to(x.dtype).expand_as(x), self.start_low.to(x.dtype).expand_as(x)

    def step(self, z: Tensor, differentiate: bool) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and differentiate):
            for layer in self.layers:
                z = layer(z)
            return z

    def forward(self, x: Tensor, state: State, high_cycles: int, low_cycles: int) -> State:
        """Refines `state` given the input tokens x (M, S, D): `high_cycles` times low_cycles + 1 steps."""
        high, low = state
        for cycle in range(high_cycles):
            whole_cycle = self.grad_mode == "full" or (
                self.grad_mode == "last_cycle" and cycle == high_cycles - 1
            )
            for low_step in range(low_cycles):
                is_last = cycle == high_cycles - 1 and low_step == low_cycles - 1
                low = self.step(low + high + x, whole_cycle or is_last)
            high = self.step(high + low, whole_cycle or cycle == high_cycles - 1)
        return high, low


class TransformerCore(nn.Module):
    """The control: the same layers, pre-norm, applied once to the input tokens; it carries no state."""

    def __init__(self, preset: Preset):
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(preset.width, preset.heads, post_norm=False) for _ in range(preset.core_layers)
        )

    def begin(self, x: Tensor) -> State:
        return x, x

    def forward(self, x: Tensor, state: State, high_cycles: int, low_cycles: int) -> State:
        for layer in self.layers:
            x = layer(x)
        x = normalize(x)
        return x, x


def rotate(x: Tensor, times: Tensor) -> Tensor:
    """RoPE: turns pairs of features by angles that grow with time. x (…, H, S, D/H), times (…, S) int64."""
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** -(torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angles = (times[..., None] * frequencies).unsqueeze(-3)  # (…, 1, S, D/H/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class MemoryCache:
    """Keys and values of the last `window` decisions of running battles: one battle per row, each a ring.

    Unwritten entries hold NaN, so that a wrong mask cannot pass unnoticed.
    """

    def __init__(self, memory: "ChunkMemory", rows: int):
        weight = memory.layers[0].down.weight
        width, heads = weight.shape[0], memory.layers[0].heads
        shape = (len(memory.layers), rows, heads, memory.window, NUM_REGISTERS, width // heads)
        self.keys = weight.new_full(shape, math.nan)  # (layers, rows, H, W, R, D/H)
        self.values = self.keys.clone()
        self.key_times = torch.full((rows, memory.window), -(10**9), device=weight.device)
        self.now = torch.zeros(rows, dtype=torch.long, device=weight.device)
        """The number of decisions each row has seen."""

    def grow(self, rows: int) -> None:
        """Adds this many empty rows."""
        self.keys = torch.cat([self.keys, torch.full_like(self.keys[:, :rows], math.nan)], 1)
        self.values = torch.cat([self.values, torch.full_like(self.values[:, :rows], math.nan)], 1)
        self.key_times = torch.cat([self.key_times, torch.full_like(self.key_times[:rows], -(10**9))])
        self.now = torch.cat([self.now, torch.zeros_like(self.now[:rows])])

    def reset(self, rows: Tensor | list[int]) -> None:
        """Forgets these rows: their next decision is the first of a battle."""
        self.keys[:, rows] = self.values[:, rows] = math.nan
        self.key_times[rows] = -(10**9)
        self.now[rows] = 0


class ChunkMemory(nn.Module):
    """Attention over past decisions: each sees the registers of the last `window` ones, itself included."""

    def __init__(self, preset: Preset, window: int):
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(
            Layer(preset.width, preset.heads, post_norm=False) for _ in range(preset.memory_layers)
        )

    def forward(self, registers: Tensor) -> Tensor:
        """registers (B, T, R, D), padded at the end, to memories of the same shape, for all steps at once."""
        steps = registers.shape[1]
        times = torch.arange(steps, device=registers.device).repeat_interleave(NUM_REGISTERS)  # (T·R,)
        age = times[:, None] - times[None, :]
        mask = (age >= 0) & (age < self.window)  # (T·R, T·R)

        def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            # In float32, whose fused kernel is the fast one on CPU: hundreds of tokens, unlike in the core.
            with torch.autocast(queries.device.type, enabled=False):
                wide = torch.promote_types(queries.dtype, torch.float32)
                queries, keys, heads = (part.to(wide) for part in (queries, keys, values))
                queries, keys = rotate(queries, times), rotate(keys, times)
                mixed = F.scaled_dot_product_attention(queries, keys, heads, attn_mask=mask)
            return mixed.to(values.dtype)

        x = registers.flatten(1, 2)
        for layer in self.layers:
            x = layer(x, attention)
        return x.view_as(registers)

    def step(self, registers: Tensor, cache: MemoryCache, rows: Tensor) -> Tensor:
        """registers (M, R, D) of the next decision of the cache rows (M,) to their memories, as `forward`."""
        now = cache.now[rows]  # (M,)
        slot = now % self.window
        cache.key_times[rows, slot] = now
        age = now[:, None] - cache.key_times[rows]  # (M, W)
        mask = ((age >= 0) & (age < self.window)).repeat_interleave(NUM_REGISTERS, 1)[:, None, None]
        times = now[:, None].expand(-1, NUM_REGISTERS)  # (M, R)

        def attention(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            cache.keys[layer, rows, :, slot] = rotate(keys, times).to(cache.keys.dtype)
            cache.values[layer, rows, :, slot] = values.to(cache.values.dtype)
            unseen = ~mask.mT  # (M, 1, W·R, 1)
            keys = cache.keys[layer, rows].flatten(2, 3).masked_fill(unseen, 0.0)  # (M, H, W·R, D/H)
            values = cache.values[layer, rows].flatten(2, 3).masked_fill(unseen, 0.0)
            return attend(rotate(queries, times), keys.to(queries.dtype), values.to(queries.dtype), mask)

        x = registers
        for index, layer in enumerate(self.layers):
            x = layer(x, functools.partial(attention, index))
        cache.now[rows] = now + 1
        return x


class Residual(nn.Module):
    """x + MLP(x)."""

    def __init__(self, width: int):
        super().__init__()
        self.inner, self.outer = linear(width, width, bias=True), linear(width, width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.silu(self.inner(x)))


def exactly(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer without autocast: bfloat16 value logits would blur advantages of a hundredth."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(layer.weight.dtype))


class Heads(nn.Module):
    """Actor and critics that point at tokens: an action is scored from its own token and the whole state."""

    def __init__(self, preset: Preset):
        super().__init__()
        joint = 2 * NUM_REGISTERS * preset.width
        self.state = linear(joint, preset.hidden)
        self.token = linear(preset.width, preset.hidden)
        self.kinds = nn.Parameter(torch.randn(3, preset.hidden))  # move, switch, move with the gimmick
        self.actor, self.policy = Residual(preset.hidden), linear(preset.hidden, len(GAMMAS))
        self.direct = linear(joint, len(GAMMAS) * NUM_ACTIONS, bias=True)
        self.critics = nn.ModuleList(Residual(preset.hidden) for _ in range(preset.critics))
        self.values = nn.ModuleList(
            linear(preset.hidden, len(GAMMAS) * NUM_BINS, bias=True) for _ in range(preset.critics)
        )
        # Start from the uniform policy and, with all bins alike, from advantages of zero: plain cloning.
        for output in (self.policy, self.direct, *self.values):
            nn.init.zeros_(output.weight)

    def features(self, z: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """z (M, S, D), memory (M, R, D) to the joint state (M, 2·R·D) and action features (M, A, hidden)."""
        joint = torch.cat([z[:, NUM_TOKENS:].flatten(1), normalize(memory).flatten(1).to(z.dtype)], 1)
        moves, bench = TOKEN_SPANS["moves"], TOKEN_SPANS["bench"]
        pointed = self.token(torch.cat([z[:, moves], z[:, bench]], 1))  # (M, 9, hidden)
        kinds = self.kinds.to(pointed.dtype).repeat_interleave(
            torch.tensor([4, 5, 4], device=z.device), 0, output_size=NUM_ACTIONS
        )
        pointed = torch.cat([pointed, pointed[:, :4]], 1)  # (M, A, hidden): the gimmick reuses the moves
        return joint, normalize(pointed + kinds + self.state(joint)[:, None])

    def logits(self, joint: Tensor, actions: Tensor) -> Tensor:
        """Unmasked policy logits (M, G, A) of each discount's actor."""
        # Pointers alone must tie on identical tokens (two equal moves); `direct` knows the action's place.
        direct = exactly(self.direct, joint).view(-1, len(GAMMAS), NUM_ACTIONS)
        return self.policy(self.actor(actions)).mT.to(direct.dtype) + direct

    def value_logits(self, actions: Tensor) -> Tensor:
        """Critics of the given actions: (…, hidden) to (C, …, G, K)."""
        critics = zip(self.critics, self.values, strict=True)
        logits = torch.stack([exactly(value, critic(actions)) for critic, value in critics])
        return logits.unflatten(-1, (len(GAMMAS), NUM_BINS))


class Segment(NamedTuple):
    """What the heads read after one supervised segment of reasoning."""

    z: Tensor  # (M, S, D)
    joint: Tensor  # (M, 2·R·D)
    actions: Tensor  # (M, A, hidden)


class Network(nn.Module):
    """Turn encoder, reasoning core before and after the memory, heads."""

    def __init__(
        self, preset: Preset, traj_encoder: str = "hrm", window: int = 64, grad_mode: str = "last_cycle"
    ):
        super().__init__()
        self.preset = preset
        width, squeezed = preset.width, 16
        self.turn = TurnEncoder(width, preset.word_width)
        self.registers = nn.Parameter(torch.randn(NUM_REGISTERS, width))
        self.core = HRMCore(preset, grad_mode) if traj_encoder == "hrm" else TransformerCore(preset)
        self.carries_gradient = traj_encoder == "hrm" and grad_mode == "full"
        self.squeeze = linear(2 * width, squeezed)
        self.gather = linear(NUM_TOKENS * squeezed, NUM_REGISTERS * width)
        self.memory = ChunkMemory(preset, window)
        self.heads = Heads(preset)

    def perceive(self, words: Tensor, numbers: Tensor) -> tuple[Tensor, State, Tensor]:
        """First pass, without memory: slots (M, NUM_TOKENS, D), state, registers for the memory (M, R, D)."""
        slots = self.turn(words, numbers)
        registers = self.registers.to(slots.dtype).expand(len(slots), -1, -1)
        x = torch.cat([slots, normalize(registers)], 1)
        state = self.core(x, self.core.begin(x), self.preset.high_cycles, self.preset.low_cycles[0])
        squeezed = self.squeeze(torch.cat([slots, state[0][:, :NUM_TOKENS]], -1))
        gathered = self.gather(squeezed.flatten(1)).view(-1, NUM_REGISTERS, self.preset.width)
        return slots, state, normalize(state[0][:, NUM_TOKENS:] + gathered)

    def deliberate(self, slots: Tensor, state: State, memory: Tensor) -> Iterator[Tensor]:
        """Second pass, with the memory in the registers' place: z (M, S, D) after each segment."""
        x = torch.cat([slots, normalize(memory).to(slots.dtype)], 1)
        for _ in range(self.preset.segments):
            if not self.carries_gradient:
                state = (state[0].detach(), state[1].detach())
            state = self.core(x, state, 1, self.preset.low_cycles[1])
            yield state[0]

    def forward(self, batch: "Batch", only_last: bool = False) -> tuple[list[Segment], Tensor]:
        """All decisions of whole battles at once.

        Returns the segments (the first one reasoned without memory) or the last one alone, and the registers
        that went into the memory (M, R, D).
        """
        slots, state, registers = self.perceive(batch.words, batch.numbers)
        # Only the memory sees the padding to battles x steps; everything else works on the M rows.
        padded = registers.new_zeros(batch.num_battles * batch.num_steps, *registers.shape[1:])
        padded = padded.index_copy(0, batch.place, registers)
        memory = self.memory(padded.unflatten(0, (batch.num_battles, batch.num_steps)))
        memory = memory.flatten(0, 1).index_select(0, batch.place)  # (M, R, D)
        outputs = [state[0], *self.deliberate(slots, state, memory)]
        used = outputs[-1:] if only_last else outputs
        return [Segment(z, *self.heads.features(z, memory)) for z in used], registers

    def step(self, words: Tensor, numbers: Tensor, cache: MemoryCache, rows: Tensor) -> Segment:
        """The next decision of the battles in these cache rows (M,): the last segment of `forward`."""
        slots, state, registers = self.perceive(words, numbers)
        memory = self.memory.step(registers, cache, rows)
        *_, z = self.deliberate(slots, state, memory)
        return Segment(z, *self.heads.features(z, memory))


def build_network(args: Args) -> Network:
    preset = PRESETS[args.preset]
    preset = preset._replace(segments=args.n_sup or preset.segments)
    return Network(preset, args.traj_encoder, args.mem_window, args.grad_mode)


# --- Battles ----------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """M decisions of whole battles, one battle after the other, in order of play; filler rows come last.

    Filler rows teach nothing: no action is known, none is legal. They keep M among few values.
    """

    words: Tensor  # (M, NUM_WORDS) int32
    numbers: Tensor  # (M, NUM_NUMBERS) float16
    legal: Tensor  # (M, A) bool
    action: Tensor  # (M,) int64; -1 where it is not known
    reward: Tensor  # (M,) float32: until the next decision or the end
    terminated: Tensor  # (M,) bool
    is_last: Tensor  # (M,) bool: last of its battle; without `terminated`, the battle was cut off
    returns: Tensor  # (M,) float32: discounted sum of the rewards to come, last discount; NaN if cut off
    outcome: Tensor  # (M,) +1, -1 or 0: of the whole battle
    place: Tensor  # (M,) int64: battle · num_steps + step, in the padded layout
    num_battles: int
    num_steps: int
    num_decisions: int  # rows without the filler

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(field.to(device) if isinstance(field, Tensor) else field for field in self))


def reward_weights(reward: str) -> np.ndarray:
    """Weights of battle_files.REWARD_TERMS; metamon's ratios, with a win as 1 instead of 100."""
    terms = {"health": 0.01, "status": 0.005, "knock_out": 0.01} if reward == "shaped" else {}
    return np.array(
        [(terms | {"outcome": 1.0}).get(name, 0.0) for name in battle_files.REWARD_TERMS], np.float32
    )


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def filler(rows: int) -> dict[str, np.ndarray]:
    """A trajectory of nobody: cut off, without a known or a legal action."""
    columns = {name: np.zeros((rows, *shape), dtype) for name, (dtype, shape) in battle_files.COLUMNS.items()}
    columns["action"][:] = battle_files.MISSING_ACTION
    columns["truncated"][-1] = True
    return columns


def make_batch(
    trajectories: list[dict[str, np.ndarray]],
    weights: np.ndarray,
    rows_multiple: int = 1,
    steps_multiple: int = 1,
) -> Batch:
    """Packs trajectories (columns of battle_files.COLUMNS) into one batch, with rows and steps filled up to
    multiples of these numbers."""
    lengths = [len(trajectory["action"]) for trajectory in trajectories]
    num_decisions, num_steps = sum(lengths), round_up(max(lengths), steps_multiple)
    missing = round_up(num_decisions, rows_multiple) - num_decisions
    fillers = [min(num_steps, missing - first) for first in range(0, missing, num_steps)]
    columns = {
        name: np.concatenate([part[name] for part in (*trajectories, *map(filler, fillers))])
        for name in ("words", "numbers", "legal", "action", "reward_terms", "terminated", "truncated")
    }
    lengths = np.array(lengths + fillers)
    starts = np.cumsum(lengths) - lengths
    battle = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(len(battle)) - starts[battle]
    place = battle * num_steps + step
    reward = columns["reward_terms"] @ weights
    # Returns as differences of running sums, in float64: the discount to the power of 1,000 is still 0.37.
    discount = GAMMAS[-1] ** np.arange(num_steps)
    discounted = np.zeros((len(lengths), num_steps))
    discounted.flat[place] = reward * discount[step]
    returns = (np.flip(np.flip(discounted, 1).cumsum(1), 1) / discount).flat[place]
    last = starts + lengths - 1
    returns[columns["truncated"][last][battle]] = np.nan
    outcome = columns["reward_terms"][last, battle_files.REWARD_TERMS.index("outcome")][battle]
    is_last = np.zeros(len(battle), bool)
    is_last[last] = True
    return Batch(
        torch.from_numpy(columns["words"].astype(np.int32)),
        torch.from_numpy(columns["numbers"]),
        torch.from_numpy(columns["legal"]),
        torch.from_numpy(columns["action"].astype(np.int64)),
        torch.from_numpy(reward),
        torch.from_numpy(columns["terminated"]),
        torch.from_numpy(is_last),
        torch.from_numpy(returns.astype(np.float32)),
        torch.from_numpy(outcome),
        torch.from_numpy(place),
        len(lengths),
        num_steps,
        num_decisions,
    )


class Sampler:
    """Endless batches of whole battles of similar length: each epoch deals every battle out once.

    `epoch` and `next` are the whole position: putting them back continues the same sequence.
    """

    def __init__(self, lengths: np.ndarray, batch_decisions: int, seed: int, least: int = 1):
        """lengths (N,) decisions per trajectory; least: trajectories that a batch must hold at least."""
        if len(lengths) < least:
            raise CleanPokeError(
                f"{len(lengths)} trajectories to train on, at least {least} needed: collect more"
            )
        self.lengths, self.batch_decisions, self.seed, self.least = lengths, batch_decisions, seed, least
        self.epoch, self.next = 0, 0
        self._dealt = -1

    def __call__(self) -> np.ndarray:
        """Indices of the trajectories of the next batch."""
        if self._dealt != self.epoch:
            self.batches, self._dealt = self._deal(), self.epoch
        indices = self.batches[self.next]
        self.next += 1
        if self.next == len(self.batches):
            self.epoch, self.next = self.epoch + 1, 0
        return indices

    def _deal(self) -> list[np.ndarray]:
        generator = np.random.default_rng((self.seed, self.epoch))
        # Noise on the length used for sorting makes other companions in each epoch.
        order = np.argsort(self.lengths * generator.uniform(0.9, 1.1, len(self.lengths)))
        batches: list[list[int]] = [[]]
        count = 0
        for index in order:
            if len(batches[-1]) >= self.least and count + self.lengths[index] > self.batch_decisions:
                batches.append([])
                count = 0
            batches[-1].append(index)
            count += self.lengths[index]
        if len(batches) > 1 and len(batches[-1]) < self.least:
            batches[-2].extend(batches.pop())
        return [np.array(batches[index]) for index in generator.permutation(len(batches))]


# --- Losses -----------------------------------------------------------------------------------------------


def legal_or_all(legal: Tensor) -> Tensor:
    """(…, A) bool: where no action is legal, all are, so that a softmax stays finite."""
    return legal | ~legal.any(-1, keepdim=True)


def log_policy(logits: Tensor, legal: Tensor) -> Tensor:
    """Logits (M, G, A), legal (M, A) to log-probabilities (M, G, A); an illegal action has about -1e9."""
    return logits.masked_fill(~legal_or_all(legal)[:, None], -1e9).log_softmax(-1)


def value_bins(device: torch.device | None = None) -> Tensor:
    """(K,) the centres of the value bins."""
    return torch.linspace(-VALUE_LIMIT, VALUE_LIMIT, NUM_BINS, device=device)


def expected_value(value_logits: Tensor) -> Tensor:
    """Critic logits (C, …, K) to values (…): the mean over bins and critics."""
    return (value_logits.softmax(-1) @ value_bins(value_logits.device).to(value_logits.dtype)).mean(0)


def hl_gauss(values: Tensor) -> Tensor:
    """Values (…) to target histograms (…, K): a Gaussian of 3/4 bin width around each (HL-Gauss)."""
    limit, width = VALUE_LIMIT, 2 * VALUE_LIMIT / (NUM_BINS - 1)
    edges = torch.linspace(-limit - width / 2, limit + width / 2, NUM_BINS + 1, device=values.device)
    scaled = (edges.to(values.dtype) - values.clamp(-limit, limit)[..., None]) / (0.75 * width * math.sqrt(2))
    cumulative = torch.erf(scaled)
    return cumulative.diff() / (cumulative[..., -1:] - cumulative[..., :1])


def lambda_returns(batch: Batch, state_value: Tensor, td_lambda: float) -> Tensor:
    """Critic targets y = r + gamma · ((1 - lambda) · V(s') + lambda · y'), r alone at a true end; (M, G).

    state_value (M, G): V(s) of each row. Lambda 0 is the one-step target, 1 the return that was played out.
    Where a battle was cut off V(s) stands in for what never came; that row itself must not be learned.
    """

    def padded(rows: Tensor) -> Tensor:
        places = rows.new_zeros(batch.num_battles * batch.num_steps, rows.shape[1])
        return places.index_copy(0, batch.place, rows).unflatten(0, (batch.num_battles, batch.num_steps))

    state_value = state_value.float()
    gammas = torch.tensor(GAMMAS, device=state_value.device)
    reward, value = padded(batch.reward[:, None]), padded(state_value)  # (B, T, 1), (B, T, G)
    goes_on = padded((~batch.is_last)[:, None].float())
    is_cut_off = padded((batch.is_last & ~batch.terminated)[:, None].float()).bool()
    targets = torch.zeros_like(value)
    later = next_value = torch.zeros_like(value[:, 0])
    for step in reversed(range(batch.num_steps)):
        later = (1 - td_lambda) * next_value + td_lambda * later
        later = reward[:, step] + gammas * goes_on[:, step] * later
        later = torch.where(is_cut_off[:, step], value[:, step], later)
        targets[:, step], next_value = later, value[:, step]
    return targets.flatten(0, 1).index_select(0, batch.place)


def advantage_weights(
    advantage: Tensor, choice: Tensor, adv_filter: str, beta: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weights (M, G) of the recorded actions with advantages (M, G); 0 where `choice` (M,) is False.

    exp: min(exp(beta · z), 20) of the advantages z, centred and divided by their standard deviation (at least
    0.01: as long as the critic knows nothing this is cloning) per discount, over the whole batch of all
    processes; weights have mean 1. Returns statistics as well: "std" (G,), "ess" and "w_max_frac" scalars.
    """
    rows = choice[:, None].to(advantage.dtype)
    count, total, squares = global_sums(rows.sum(), (rows * advantage).sum(0), (rows * advantage**2).sum(0))
    count = count.clamp_min(1)
    mean = total / count
    std = (squares / count - mean**2).clamp_min(0).sqrt()  # (G,)
    if adv_filter == "exp":
        z = (advantage - mean.to(advantage.dtype)) / std.clamp_min(0.01).to(advantage.dtype)
        weights = (beta * z).exp().clamp_max(20) * rows
        weights = weights * (count / global_sums(weights.sum(0))[0].clamp_min(1e-9)).to(weights.dtype)
    elif adv_filter == "binary":
        weights = (advantage > 0) * rows
    elif adv_filter == "soft_binary":
        weights = torch.where(advantage > 0, 1.0, 0.2) * rows
    else:
        weights = rows.expand_as(advantage)
    (total_weight, squared_weight) = global_sums(weights.sum(0), (weights**2).sum(0))
    largest = weights.max(0).values if len(weights) else weights.new_zeros(len(GAMMAS))
    statistics = {
        "std": std,
        "ess": (total_weight**2 / (count * squared_weight).clamp_min(1e-9)).mean(),
        "w_max_frac": (largest / total_weight.clamp_min(1e-9)).max(),
    }
    return weights, statistics


class Losses(NamedTuple):
    """Sums over this process's rows divided by the counts of the whole batch: processes' gradients add up."""

    total: Tensor
    actor: Tensor
    critic: Tensor


def compute_losses(
    network: Network, target: Network, batch: Batch, args: Args
) -> tuple[Losses, dict[str, Any]]:
    """Loss of one batch, deeply supervised, and what `diagnostics` measures.

    With pi_e, Q_e of the slow copy `target`: y the lambda-return on V = E_pi_e Q_e, A = Q_e(a) - E_pi Q_e.
    """
    known = batch.action >= 0
    choice = known & (batch.legal.sum(1) > 1)  # where the policy had a say
    learnable = known & ~(batch.is_last & ~batch.terminated)  # TD needs a next state or a true end
    num_choices, num_learnable = (n.clamp_min(1) for n in global_sums(choice.sum(), learnable.sum()))
    action = batch.action.clamp_min(0)
    taken = action[:, None, None].expand(-1, len(GAMMAS), 1)

    with torch.no_grad():
        (slow,) = target(batch, only_last=True)[0]
        q = expected_value(target.heads.value_logits(slow.actions)).mT  # (M, G, A)
        slow_policy = log_policy(target.heads.logits(slow.joint, slow.actions), batch.legal).exp()
        targets = lambda_returns(batch, (slow_policy * q).sum(-1), args.td_lambda)  # (M, G)
        histograms = hl_gauss(targets)  # (M, G, K)

    segments, registers = network(batch)
    logits = [network.heads.logits(segment.joint, segment.actions) for segment in segments]
    log_pi = [log_policy(segment_logits, batch.legal) for segment_logits in logits]
    with torch.no_grad():
        advantage = q.gather(-1, taken)[..., 0] - (log_pi[-1].exp() * q).sum(-1)  # (M, G)
        weights, statistics = advantage_weights(advantage, choice, args.adv_filter, args.beta)

    actor = critic = torch.zeros((), device=batch.reward.device)
    maxq_scale = args.maxq_coef / statistics["std"].clamp_min(0.01).to(q.dtype)  # (G,)
    supervision = [0.25] + [0.5] * (len(segments) - 2) + [1.0]
    for segment, segment_log_pi, strength in zip(segments, log_pi, supervision, strict=True):
        cloned = -(weights * segment_log_pi.gather(-1, taken)[..., 0]).sum() / len(GAMMAS)
        segment_actor = cloned / num_choices
        if args.maxq_coef:
            own_logits = network.heads.logits(segment.joint.detach(), segment.actions.detach())
            expected_q = (log_policy(own_logits, batch.legal).exp() * q).sum(-1) * choice[:, None]
            segment_actor = segment_actor - (maxq_scale * expected_q).sum() / len(GAMMAS) / num_choices
        rows = torch.arange(len(action), device=action.device)
        value_logits = network.heads.value_logits(segment.actions[rows, action])  # (C, M, G, K)
        cross_entropy = -(histograms * value_logits.log_softmax(-1)).sum(-1).mean((0, 2))  # (M,)
        actor = actor + strength * segment_actor
        critic = critic + strength * (cross_entropy * learnable).sum() / num_learnable
    total = actor + args.critic_coef * critic
    last_critic = (cross_entropy * learnable).sum() / num_learnable
    details = {
        "z": segments[-1].z,
        "early_z": segments[0].z,
        "early_logits": logits[0],
        "logits": logits[-1],
        "log_pi": log_pi[-1],
        "registers": registers,
        "q": q,
        "q_taken": q.gather(-1, taken)[..., 0],
        "value_logits": value_logits,
        "targets": targets,
        "advantage": advantage,
        "choice": choice,
        "learnable": learnable,
        "last_critic": last_critic,
        **statistics,
    }
    return Losses(total.float(), actor.float(), critic.float()), details


# --- Measures ---------------------------------------------------------------------------------------------


def ratio(numerator: Tensor, denominator: Tensor) -> float:
    return float(numerator / denominator.clamp_min(1e-12))


def masked_mean(values: Tensor, rows: Tensor) -> Tensor:
    """Mean of values (M,) over the rows (M,) that count; 0 without any."""
    return (values * rows).sum() / rows.sum().clamp_min(1)


def effective_rank(rows: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of rows (N, D); 1 = all alike but for scale."""
    spectrum = torch.linalg.svdvals(rows.float())
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    return torch.special.entr(share).sum().exp()


def normalized_entropy(log_pi: Tensor, legal: Tensor) -> Tensor:
    """log_pi (M, A), legal (M, A) to entropy / ln(number of legal actions) (M,), unclipped; 0 if forced."""
    entropy = torch.special.entr(log_pi.exp()).sum(-1)
    return entropy / legal.sum(-1).clamp_min(2).log()


def action_kinds(probabilities: Tensor) -> Tensor:
    """(…, A) to the shares of moves, switches and gimmick moves (…, 3)."""
    return torch.stack([part.sum(-1) for part in probabilities.split([4, 5, 4], -1)], -1)


@torch.no_grad()
def diagnostics(details: dict[str, Any], batch: Batch) -> dict[str, float]:
    """What the warnings and TensorBoard show of one update, of this process's rows; last discount where there
    is one per discount."""
    choice, learnable = details["choice"], details["learnable"]
    log_pi, logits = details["log_pi"][:, -1].float(), details["logits"][:, -1].float()
    legal = legal_or_all(batch.legal)
    value = expected_value(details["value_logits"])[:, -1]
    target, q_taken = details["targets"][:, -1], details["q_taken"][:, -1]
    error = value - target
    variance = masked_mean((target - masked_mean(target, learnable)) ** 2, learnable)
    has_return = learnable & ~batch.returns.isnan()
    recorded = F.one_hot(batch.action.clamp_min(0), NUM_ACTIONS).float()
    policy_kinds = masked_mean(action_kinds(log_pi.exp()), choice[:, None])
    data_kinds = masked_mean(action_kinds(recorded), choice[:, None])
    z, early_z = (details[name][: batch.num_decisions].float() for name in ("z", "early_z"))
    early_best = details["early_logits"][:, -1].masked_fill(~legal, -1e9).argmax(-1)
    hits = log_pi.argmax(-1) == batch.action
    return {
        "adv/std": float(details["std"][-1]),
        "adv/ess": float(details["ess"]),
        "adv/w_max_frac": float(details["w_max_frac"]),
        "pi/entropy": float(masked_mean(normalized_entropy(log_pi, legal), choice)),
        "pi/accuracy": float(masked_mean(hits.float(), choice)),
        "pi/max_logprob": float(masked_mean(log_pi.max(-1).values, choice)),
        "pi/illegal_mass": float(masked_mean((logits.softmax(-1) * ~legal).sum(-1), choice)),
        "pi/largest_kind": float(policy_kinds.max()),
        "data/largest_kind": float(data_kinds.max()),
        "td/abs": float(masked_mean(error.abs(), learnable)),
        "td/explained_var": 1.0 - ratio(masked_mean(error**2, learnable), variance),
        "q/mean": float(masked_mean(q_taken, learnable)),
        "q/target_mean": float(masked_mean(target, learnable)),
        "q/overest": float(masked_mean(q_taken - batch.returns.nan_to_num(), has_return)),
        "hrm/resid": ratio((z - early_z)[:, :NUM_TOKENS].norm(), early_z[:, :NUM_TOKENS].norm()),
        "hrm/eff_rank": float(effective_rank(details["registers"][: batch.num_decisions].flatten(1)[:512])),
        "hrm/argmax_flips": float(masked_mean((early_best != log_pi.argmax(-1)).float(), choice)),
    }


def critic_actor_ratio(losses: Losses, details: dict[str, Any], critic_coef: float) -> float:
    """How much harder the critics' loss pulls at the shared features than the actor's."""
    by_critic, by_actor = (
        torch.autograd.grad(loss, details["z"], retain_graph=True)[0].float().norm()
        for loss in (critic_coef * losses.critic, losses.actor)
    )
    return ratio(by_critic, by_actor)


def zigzag(recent_losses: Iterable[float]) -> float:
    """std of the change between updates over the mean, of the latest losses; large when training jerks."""
    values = np.array(list(recent_losses))
    return float(np.diff(values).std() / max(abs(values.mean()), 1e-9)) if len(values) > 2 else 0.0


def warnings(metrics: dict[str, float]) -> Iterator[str]:
    """One line per alarm that rings."""
    if metrics["adv/ess"] < 0.1 or metrics["adv/w_max_frac"] > 0.2:
        yield "a few actions carry all the weight (adv/ess, adv/w_max_frac): lower --beta"
    if metrics["pi/entropy"] < 0.05:
        yield "the policy has become nearly deterministic (pi/entropy)"
    if metrics["pi/largest_kind"] > 0.95 and metrics["data/largest_kind"] < 0.8:
        yield "the policy plays one kind of action only, the data does not (pi/largest_kind)"
    if metrics["grad/critic_actor_ratio"] > 10:
        yield "the critics drown the actor (grad/critic_actor_ratio): lower --critic-coef"
    # One batch holds few battles, whose returns of ±1 scatter: half a win off is nothing unusual.
    if abs(metrics["q/overest"]) > 1.0:
        yield "the critics are far from the returns (q/overest)"
    if metrics["hrm/eff_rank"] < 2:
        yield "decisions look alike to the memory (hrm/eff_rank)"


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive example has the higher score, ties counted half; NaN if one class lacks."""
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = (np.cumsum(counts) - (counts - 1) / 2)[ranks]
    num_positive = int(positive.sum())
    pairs = num_positive * (len(scores) - num_positive)
    if pairs == 0:
        return math.nan
    return float((mean_ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / pairs)


@torch.no_grad()
def measure_held_out(network: Network, batches: Iterable[Batch]) -> dict[str, float]:
    """Teacher-forced measures on battles that are never trained on, with and without memory."""

    def zeros(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    sums = dict.fromkeys(("nll", "accuracy", "nll_no_memory", "choices"), 0.0)
    win_chances, wins = [], []
    for batch in batches:
        choice = (batch.action >= 0) & (batch.legal.sum(1) > 1)
        action = batch.action.clamp_min(0)[:, None]
        for memory_works in (True, False):
            handle = None if memory_works else network.memory.register_forward_hook(zeros)
            (segment,), _ = network(batch, only_last=True)
            log_pi = log_policy(network.heads.logits(segment.joint, segment.actions), batch.legal)[:, -1]
            nll = float(-(log_pi.gather(-1, action)[:, 0] * choice).sum())
            if handle:
                handle.remove()
                sums["nll_no_memory"] += nll
                continue
            sums["nll"] += nll
            sums["accuracy"] += float(((log_pi.argmax(-1) == action[:, 0]) & choice).sum())
            sums["choices"] += float(choice.sum())
            q = expected_value(network.heads.value_logits(segment.actions))[..., -1]  # (M, A)
            decided = batch.outcome != 0
            win_chances.append(((1 + (log_pi.exp() * q).sum(-1)) / 2).clamp(0, 1)[decided].cpu().numpy())
            wins.append((batch.outcome > 0)[decided].cpu().numpy())
    count = max(sums.pop("choices"), 1.0)
    chance, win = np.concatenate(win_chances), np.concatenate(wins)
    return {f"heldout/{name}": value / count for name, value in sums.items()} | {
        "value/brier": float(((chance - win) ** 2).mean()) if len(win) else math.nan,
        "value/auc": area_under_curve(chance, win),
    }


# --- Play -------------------------------------------------------------------------------------------------


class NetworkPlayer:
    """A trained network as a player of the arena: one cache row per battle and side."""

    needs = frozenset({"arrays"})

    def __init__(self, network: Network, name: str = "awac_hrm", temperature: float = 0.0, seed: int = 0):
        """temperature: 0 plays the likeliest action, 1 draws from the policy."""
        self.network, self.name, self.temperature = network.eval(), name, temperature
        self.generator = torch.Generator().manual_seed(seed)
        self.cache = MemoryCache(network.memory, 64)
        self.rows: dict[Key, int] = {}
        self.free_rows = list(range(64))

    def observe(self, key: Key, message: "Message") -> None:
        pass

    def row(self, key: Key) -> int:
        """The cache row of a seat; a new seat gets a clean one, and the cache doubles when all are taken."""
        if key not in self.rows:
            if not self.free_rows:
                taken = len(self.cache.now)
                self.cache.grow(taken)
                self.free_rows = list(range(taken, 2 * taken))
            self.rows[key] = self.free_rows.pop()
            self.cache.reset([self.rows[key]])
        return self.rows[key]

    @torch.no_grad()
    def choose(self, decisions: list["Decision"]) -> list[int]:
        """One action per decision, at most one decision per seat."""
        device = self.cache.now.device
        rows = torch.tensor([self.row(decision.key) for decision in decisions], device=device)
        # A refused choice is asked again: the same decision once more, not the next one.
        again = torch.tensor([bool(decision.message.error) for decision in decisions], device=device)
        self.cache.now[rows] = (self.cache.now[rows] - again.long()).clamp_min(0)
        words, numbers, legal = (
            torch.from_numpy(np.stack([getattr(decision, name) for decision in decisions])).to(device)
            for name in ("words", "numbers", "legal")
        )
        segment = self.network.step(words.int(), numbers, self.cache, rows)
        log_pi = log_policy(self.network.heads.logits(segment.joint, segment.actions), legal)[:, -1].cpu()
        if self.temperature == 0:
            return log_pi.argmax(-1).tolist()
        probabilities = (log_pi / self.temperature).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=self.generator)[:, 0].tolist()

    def finish(self, key: Key) -> None:
        if key in self.rows:
            self.free_rows.append(self.rows.pop(key))


@torch.no_grad()
def golden_outputs(network: Network) -> Tensor:
    """What the heads compute for a made-up battle of six decisions, flat: checkpoints are held to it."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, VOCABULARY_SIZE, (6, NUM_WORDS), generator=generator)
    numbers = torch.rand(6, NUM_NUMBERS, generator=generator)
    cache = MemoryCache(network.memory, 1)
    device, row = cache.now.device, torch.zeros(1, dtype=torch.long, device=cache.now.device)
    outputs = []
    for step in range(6):
        inputs = words[step : step + 1].to(device), numbers[step : step + 1].to(device)
        segment = network.step(*inputs, cache, row)
        logits = network.heads.logits(segment.joint, segment.actions)
        outputs += [logits.flatten(), segment.actions.flatten()]
    return torch.cat(outputs).cpu()


def load_weights(network: Network, weights: dict[str, Tensor], path: Path) -> None:
    """Puts the weights in, all and only those. Raises CleanPokeError if they are of another network."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CleanPokeError(
            f"{path} does not fit this network ({reason}): give the arguments of its run"
        ) from error


def load_network(path: Path) -> tuple[Network, Checkpoint]:
    """The slow copy of a checkpoint, ready to play on the CPU.

    Raises CleanPokeError if it is no checkpoint of this script and schema, is untrained, lacks weights or has
    too many, or does not compute what it computed when it was saved.
    """
    checkpoint = load_checkpoint(path, script=SCRIPT, schema=SCHEMA, needs=("slow", "golden_outputs"))
    if checkpoint.step == 0:
        raise CleanPokeError(f"{checkpoint.path} holds an untrained network: give a later checkpoint")
    network = build_network(saved_arguments(checkpoint, Args))
    load_weights(network, checkpoint.state["slow"], checkpoint.path)
    network.eval().requires_grad_(False)
    if not torch.allclose(golden_outputs(network), checkpoint.state["golden_outputs"], atol=1e-3, rtol=1e-3):
        raise CleanPokeError(
            f"{checkpoint.path} computes other numbers than when it was saved: use the version that wrote it"
        )
    return network, checkpoint


def check_checkpoint(path: Path, battle_format: str) -> None:
    """Raises CleanPokeError unless the checkpoint can play battles of this format."""
    _, checkpoint = load_network(path)
    trained_for = saved_arguments(checkpoint, Args).format
    if battle_format[:4] != trained_for[:4]:
        raise CleanPokeError(
            f"{checkpoint.path} was trained for {trained_for}: it cannot play {battle_format}"
        )


def make_network_player(
    path: Path, battle_format: str, temperature: float = 0.0, seed: int = 0
) -> NetworkPlayer:
    """The player in a checkpoint; picklable with functools.partial, so that each process builds its own."""
    torch.set_num_threads(1)  # battle processes share the cores
    network, checkpoint = load_network(path)
    name = f"{checkpoint.path.parent.name}/{checkpoint.path.stem}@{temperature:g}"
    return NetworkPlayer(network, name, temperature, seed)


def player_factory(spec: str, battle_format: str) -> PlayerFactory:
    """Builder of the player that `spec` names: one of players.make_player, or "checkpoint:PATH" for a trained
    network, which plays greedily, or with "@1" behind the path samples at that temperature.

    Raises CleanPokeError here, not in a child process, for an unknown name or an unfit checkpoint.
    """
    if not spec.startswith("checkpoint:"):
        make_player(spec, battle_format, seed=0)
        return functools.partial(make_player, spec, battle_format)
    name, _, temperature = spec.removeprefix("checkpoint:").partition("@")
    check_checkpoint(Path(name), battle_format)
    try:
        return functools.partial(make_network_player, Path(name), battle_format, float(temperature or 0))
    except ValueError as error:
        raise CleanPokeError(
            f"player {spec!r}: what follows '@' must be a temperature, such as 1.0"
        ) from error


def evaluate(
    args: Args,
    checkpoint: Path,
    battles: int,
    stop: StopSignal,
    temperatures: tuple[tuple[str, float], ...] = (("greedy", 0.0), ("sampled", 1.0)),
) -> dict[str, dict[str, dict[str, float]]]:
    """Win rates on held-out teams: {"greedy" | "sampled": {opponent: row of arena.evaluate}}."""
    results = {}
    for name, temperature in temperatures:
        line = Progress(unit=f"battle ({name})")
        results[name] = arena.evaluate(
            functools.partial(make_network_player, checkpoint, args.format, temperature, args.seed),
            {spec: player_factory(spec, args.format) for spec in args.opponents},
            args.format,
            battles=battles,
            seed=args.seed,
            processes=available_cores(),
            should_stop=lambda: bool(stop),
            on_result=line.update,
        )
        line.end()
    return results


# --- Training ---------------------------------------------------------------------------------------------


def learning_rate_factor(step: int, progress: float, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine from 1 to 0.1; progress: how much of the run is over, 0 to 1."""
    warmth = min((step + 1) / max(warmup_steps, 1), 1.0)
    return warmth * (0.1 + 0.45 * (1 + math.cos(math.pi * min(progress, 1.0))))


def make_optimizer(network: Network, args: Args) -> torch.optim.Optimizer:
    """AdamW; weight decay acts on the matrices only."""
    matrices = [
        parameter
        for name, parameter in network.named_parameters()
        if parameter.ndim == 2 and not name.endswith(("words.weight", "kinds", "registers"))
    ]
    chosen = set(map(id, matrices))
    others = [parameter for parameter in network.parameters() if id(parameter) not in chosen]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    rate = args.learning_rate or PRESETS[args.preset].learning_rate
    return torch.optim.AdamW(groups, rate, betas=(0.9, 0.95), weight_decay=args.weight_decay, fused=True)


def gradient_norms(network: Network) -> dict[str, float]:
    """Norm of the gradient of each part of the network."""
    norms = {}
    for name, part in network.named_children():
        gradients = [p.grad for p in part.parameters() if p.grad is not None]
        norms[f"grad/norm_{name}"] = float(
            torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        )
    return norms


def check(args: Args) -> None:
    """Raises CleanPokeError now for what would stop the run later, after the collection or the training."""
    names = ("total_steps", "save_every", "log_every", "held_out_every", "batch_decisions", "mem_window")
    for name in (*names, "n_sup"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise CleanPokeError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if args.eval_battles or args.eval_every:
        for spec in args.opponents:
            player_factory(spec, args.format)


def collect_battles(args: Args) -> None:
    """Plays battles between scripted players, to have something to learn from."""
    players = ", ".join(args.players)
    print(f"no battles in {args.data_folder}: collecting for {args.collect_minutes:g} minutes from {players}")
    line = Progress(unit="battle")
    with StopSignal() as stop:
        collection.collect(
            args.data_folder,
            args.format,
            tuple(player_factory(spec, args.format) for spec in args.players),
            battles=args.collect_battles,
            seed=args.seed,
            processes=available_cores(),
            max_seconds=60 * args.collect_minutes,
            should_stop=lambda: bool(stop),
            on_progress=lambda progress: line.update(
                progress.battles, args.collect_battles, {"decisions": progress.decisions}
            ),
        )
    line.end()
    if stop:
        print(
            f"the battles so far are in {args.data_folder}; the next run trains on them as they are: add to "
            "them with tools/collect_battles.py --append, or delete the folder to collect anew"
        )
        raise KeyboardInterrupt


def report_evaluation(run: Run, step: int, args: Args, battles: int, stop: StopSignal) -> None:
    """Evaluates the run's newest checkpoint: prints the table, logs it, writes evaluation.json."""
    results = evaluate(args, run.folder, battles, stop)
    table = arena.results_table(results)
    run.progress.print(table)
    if stop:  # not all battles were played
        return
    run.log_text(step - 1, "eval/table", table)
    run.save_json("evaluation.json", {"step": step, **results})
    for play, rows in results.items():
        run.log(step - 1, {f"eval/{play}_{name}": row["win_rate"] for name, row in rows.items()})


def main(args: Args) -> None:
    place = start(args.device, args.threads)
    device = place.device

    # Battles
    if place.is_first:
        check(args)
        if not battle_files.count_shards(args.data_folder):
            collect_battles(args)
    global_sums(torch.zeros(1, device=device))  # the others wait here
    battles = battle_files.read_folder(args.data_folder)
    if battles.format != args.format:
        raise CleanPokeError(f"{args.data_folder} holds {battles.format} battles: choose another --data")
    held_out = battles.held_out(args.held_out)
    train_indices, held_out_indices = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    data = {"trajectories": len(battles.trajectories), "decisions": battles.total_decisions}
    data |= {"trained trajectories": len(train_indices), "decisions per update": args.batch_decisions}
    lengths = battles.trajectories["length"]
    sampler = Sampler(lengths[train_indices], args.batch_decisions, args.seed, least=place.world)
    weights = reward_weights(args.reward)

    def load_batch(indices: np.ndarray) -> Batch:
        for index in indices:
            battles.check(index)  # a damaged file is told here, not by a loss that became NaN
        chosen = [battles.decisions(index) for index in indices]
        return make_batch(chosen, weights, ROWS_MULTIPLE, STEPS_MULTIPLE).to(device)

    held_out_batches: list[Batch] = []
    if len(held_out_indices):
        deal = Sampler(lengths[held_out_indices], args.batch_decisions, args.seed)
        held_out_batches = [load_batch(held_out_indices[deal()]) for _ in range(HELD_OUT_BATCHES)]

    # Agent
    seed_everything(args.seed)
    network = build_network(args).to(device)
    slow = copy.deepcopy(network).requires_grad_(False)
    optimizer = make_optimizer(network, args)
    rates = [group["lr"] for group in optimizer.param_groups]
    run_options = {"schema": SCHEMA, "needs": STATE_KEYS, "resume": args.resume, "root": args.runs}
    run_options["enabled"] = place.is_first
    with Run(__file__, args.format, args, seed=args.seed, **run_options) as run, StopSignal() as stop:
        seconds = 0.0  # spent on training
        if run.checkpoint:
            state = run.checkpoint.state
            for name, size in data.items():
                if state["data"][name] != size:
                    raise CleanPokeError(
                        f"{run.checkpoint.path} is of a run with {state['data'][name]:,} {name}, not "
                        f"{size:,}: give the same --data, --held-out and --batch-decisions, or start anew"
                    )
            load_weights(network, state["network"], run.checkpoint.path)
            load_weights(slow, state["slow"], run.checkpoint.path)
            optimizer.load_state_dict(state["optimizer"])
            sampler.epoch, sampler.next = state["sampler"]
            seconds = state["seconds"]
            restore_random_state(run.checkpoint.random_state)
        size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        run.progress.print(
            f"{data['trajectories']:,} trajectories, {data['decisions']:,} decisions; {size:.2f}M parameters"
        )

        def save() -> None:
            state = {"network": network.state_dict(), "slow": slow.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "sampler": (sampler.epoch, sampler.next)}
            state |= {"seconds": seconds, "data": data, "golden_outputs": golden_outputs(slow)}
            run.save(step, state)

        step = run.start_step
        is_over = step >= args.total_steps or seconds >= 60 * args.max_minutes
        if run.checkpoint and is_over:
            run.progress.print(
                f"this run has ended ({step} updates, {seconds / 60:.1f} minutes): raise --total-steps or "
                "--max-minutes to go on"
            )
        recent_losses: deque[float] = deque(maxlen=200)
        warned: set[str] = set()
        while not is_over:
            began = time.monotonic()
            # One update
            batch = load_batch(train_indices[sampler()[place.rank :: place.world]])
            progress = max(step / args.total_steps, seconds / (60 * args.max_minutes))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * learning_rate_factor(step, progress, args.warmup_steps)
            with autocast(device, args.bf16):
                losses, details = compute_losses(network, slow, batch, args)
            is_logged = step % args.log_every == 0
            metrics = {}
            if is_logged:
                metrics["grad/critic_actor_ratio"] = critic_actor_ratio(losses, details, args.critic_coef)
            optimizer.zero_grad()
            losses.total.backward()
            sum_gradients(network.parameters())
            if is_logged:
                metrics |= gradient_norms(network)
            norm = nn.utils.clip_grad_norm_(network.parameters(), args.clip_norm)
            if not torch.isfinite(norm):
                raise CleanPokeError(
                    f"the gradient became {float(norm)} at update {step} (checkpoints from before stay): "
                    "lower --learning-rate or try --bf16 off"
                )
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(slow.parameters()), list(network.parameters()), args.ema_rate)
            # All processes must stop together, though the signal or the clock may reach one of them first.
            own = [*losses, *(batch.num_decisions, time.monotonic() - began, float(bool(stop)))]
            sums = global_sums(*(torch.as_tensor(value, device=device) for value in own))
            total, actor, critic, decisions, update_seconds, stopping = (float(value) for value in sums)
            update_seconds /= place.world
            seconds += update_seconds
            step += 1
            is_over = bool(stopping) or step >= args.total_steps or seconds >= 60 * args.max_minutes

            # What people see of it
            recent_losses.append(total)
            if is_logged:
                metrics |= diagnostics(details, batch) | {
                    "losses/total": total,
                    "losses/policy": actor,
                    "losses/value": critic,
                    "grad/norm": float(norm),
                    "stab/zigzag": zigzag(recent_losses),
                    "charts/SPS": decisions / update_seconds,
                    "charts/learning_rate": optimizer.param_groups[0]["lr"],
                    "charts/epoch": sampler.epoch + sampler.next / len(sampler.batches),
                }
                run.log(step - 1, metrics)
                for warning in set(warnings(metrics)) - warned if step > args.warmup_steps else ():
                    run.progress.print(f"warning: {warning}, update {step}")
                    warned.add(warning)
            shown = {"loss": total, "decisions/s": decisions / update_seconds}
            run.progress.update(step, args.total_steps, shown, seconds_left=60 * args.max_minutes - seconds)
            if place.is_first and held_out_batches and (is_over or step % args.held_out_every == 0):
                with autocast(device, args.bf16):
                    run.log(step - 1, measure_held_out(slow, held_out_batches))
            is_evaluated = bool(args.eval_every) and step % args.eval_every == 0 and not is_over
            if is_over or is_evaluated or step % args.save_every == 0:
                save()
            if is_evaluated and place.is_first:
                report_evaluation(run, step, args, args.eval_battles_between, stop)
        if place.is_first and args.eval_battles and not stop:
            report_evaluation(run, step, args, args.eval_battles, stop)
    if place.world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with user_errors():
        main(parse_arguments(Args, __file__, __doc__))
