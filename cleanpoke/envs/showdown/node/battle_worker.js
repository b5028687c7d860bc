// Runs many battles of one format in this process, for `simulator.py`, without streams or sockets.
//
// Usage: node battle_worker.js '{"format": "gen1ou", "seed": 0, "team_pool_size": 1000, ...}'
// Input, one JSON array of commands per line:
//   ["start", battle, seed, team or null, team or null]     ["choose", battle, side, choice]
// Output, one JSON object per input line, after all its commands: {messages, ended, defaulted}, with
//   messages [battle, side, lines, request without its team, team, error, truth?]  (see `describeTeam`)
//   ended    [battle, winner, turns, reason, input log, error]
// The first output line is {"ready": true} or {"fatal": reason}.
"use strict";

const fs = require("fs");
const { Battle, Dex, TeamValidator, Teams } = require("pokemon-showdown");

const options = JSON.parse(process.argv[2]);
const SIDES = ["p1", "p2"];
// A player that keeps sending choices which the rules refuse gets the default one: nothing may hang.
const MAX_ERRORS_PER_DECISION = 3;
const MAX_COMPLETED_TEAMS = 10000;
const NEWLINE = 10;

const format = Dex.formats.get(options.format);
const snapshot = options.with_truth ? require("./truth.js").truth : null;
const running = new Map();
let output = null;

// Splitmix64: neighbouring seeds give unrelated numbers. Returns 64 random bits.
function mix(seed, stream) {
	let z = BigInt.asUintN(64, BigInt(seed) * 0x9e3779b97f4a7c15n + BigInt(stream) * 0xd1342543de82ef95n);
	z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
	z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
	return z ^ (z >> 31n);
}

const generatorSeed = (bits) => `gen5,${bits.toString(16).padStart(16, "0")}`;

// Generating a team costs as much as several turns, so random-battle teams come from a pool that is
// filled on demand. Team i depends on the pool's seed and i only, never on what was played before.
const pool = {
	teams: [],
	generator: null,
	get(index) {
		if (!this.teams[index]) {
			const seed = generatorSeed(mix(options.seed, index + 1));
			this.generator ??= Teams.getGenerator(format, seed);
			this.generator.setSeed(seed);
			this.teams[index] = Teams.pack(this.generator.getTeam());
		}
		return this.teams[index];
	},
	draw(battleSeed, side) {
		return this.get(Number(mix(battleSeed, side + 1) % BigInt(options.team_pool_size)));
	},
};

// A given team as the server would let it play: its validator refuses illegal teams, and completes the sets
// of legal ones. In Gen 1, for example, it takes away the abilities that unpacking gives, and adds the EVs.
const completedTeams = new Map();
function completed(team) {
	if (!completedTeams.has(team)) {
		const sets = Teams.unpack(team);
		if (!sets) throw new Error(`not a team in the packed format: ${team}`);
		const problems = TeamValidator.get(format).validateTeam(sets);
		if (problems) throw new Error(`illegal team in ${format.id}: ${problems.join("; ")}`);
		if (completedTeams.size >= MAX_COMPLETED_TEAMS) completedTeams.clear();
		completedTeams.set(team, Teams.pack(sets));
	}
	return completedTeams.get(team);
}

class RunningBattle {
	constructor(id, seed, teams) {
		this.id = id;
		this.errors = [0, 0];
		this.reply = [null, null]; // what a side is told at once about its own choice: {error, request}
		this.early = [[], []]; // lines that a side gets before the turn that they belong to
		this.told = [new Map(), new Map()]; // for each side its Pokémon as last described: {place, text}
		this.battle = new Battle({
			formatid: format.id,
			format,
			seed: generatorSeed(mix(seed, 0)),
			send: (kind, text) => this.onSend(kind, text),
		});
		this.battle.sendUpdates = () => {}; // `report` does its work, once per commit
		teams.forEach((team, side) => {
			const played = team === null ? pool.draw(seed, side) : completed(team);
			this.battle.setPlayer(SIDES[side], { name: `Player ${side + 1}`, team: played });
		});
		this.report();
	}

	onSend(kind, text) {
		if (kind !== "sideupdate") return;
		const side = SIDES.indexOf(text.slice(0, 2));
		const line = text.slice(3);
		if (line.startsWith("|error|")) {
			this.reply[side] = { error: line.slice("|error|".length) };
		} else if (!line.startsWith("|request|")) {
			this.early[side].push(line);
		}
	}

	choose(side, choice) {
		const { battle } = this;
		this.reply[side] = null;
		if (!battle.choose(SIDES[side], choice)) {
			this.errors[side]++;
			if (this.errors[side] < MAX_ERRORS_PER_DECISION) {
				const error = this.reply[side]?.error ?? `[Invalid choice] ${battle.sides[side].choice.error}`;
				this.send(side, [], battle.sides[side].activeRequest, error);
				return;
			}
			output.defaulted++;
			battle.choose(SIDES[side], "default");
		}
		this.errors[side] = 0;
		if (battle.ended || !battle.sentRequests) this.report();
	}

	// Each Pokémon of a request as JSON, or where it stood in the side's last one if nothing about it has
	// changed. Most of a request is the bench, and writing and reading it would take longer than a turn.
	describeTeam(side, entries) {
		const last = this.told[side];
		const told = (this.told[side] = new Map());
		return entries.map((entry, place) => {
			const pokemon = this.battle.sides[side].pokemon[place];
			const text = JSON.stringify(entry);
			told.set(pokemon, { place, text });
			const before = last.get(pokemon);
			return before?.text === text ? before.place : text;
		});
	}

	send(side, lines, request, error = null) {
		const parts = [this.id, side, JSON.stringify(lines)];
		if (request) {
			const rest = { ...request, side: { ...request.side, pokemon: null } };
			parts.push(JSON.stringify(rest), `[${this.describeTeam(side, request.side.pokemon)}]`);
		} else {
			parts.push("null", "null");
		}
		parts.push(JSON.stringify(error));
		if (snapshot) parts.push(JSON.stringify(snapshot(this.battle)));
		output.messages.push({ battle: this.id, text: `[${parts}]` });
	}

	// Tells both sides what happened since the last report, each what it may see.
	report() {
		const { battle } = this;
		const lines = this.early;
		this.early = [[], []];
		const { log } = battle;
		for (let i = battle.sentLogPos; i < log.length; i++) {
			const line = log[i];
			if (line.startsWith("|split|p")) {
				const owner = line.charCodeAt(8) - 49;
				const shared = log[i + 2];
				lines[owner].push(log[i + 1]);
				if (shared) lines[1 - owner].push(shared);
				i += 2;
			} else if (line !== "|" && !line.startsWith("|t:|")) {
				// Spacers say nothing, and wall-clock times would make equal battles differ.
				lines[0].push(line);
				lines[1].push(line);
			}
		}
		battle.sentLogPos = log.length;
		battle.sentRequests = true;
		const cutOff = battle.turn > options.turn_limit;
		const over = battle.ended || cutOff;
		for (const side of [0, 1]) {
			this.send(side, lines[side], over ? null : battle.sides[side].activeRequest);
		}
		if (!over) return;
		// Winner is the player's name, "" for a tie. The simulator itself calls a tie after turn 1000.
		const winner = battle.winner ? battle.sides.findIndex((side) => side.name === battle.winner) : null;
		let reason = winner === null ? "tie" : "win";
		if (winner === null && (cutOff || battle.turn > 1000)) reason = "turn_limit";
		this.finish(reason, winner, "");
	}

	finish(reason, winner, error) {
		const { battle } = this;
		output.ended.push([this.id, winner, battle.turn, reason, battle.inputLog, error]);
		running.delete(this.id);
		battle.destroy();
	}
}

function execute([kind, id, ...details]) {
	try {
		if (kind === "start") {
			const [seed, ...teams] = details;
			running.set(id, null);
			const battle = new RunningBattle(id, seed, teams);
			if (running.has(id)) running.set(id, battle);
		} else {
			running.get(id)?.choose(...details);
		}
	} catch (error) {
		// A bug in the rules of one battle ends that battle, not the other hundreds in this process.
		const battle = running.get(id);
		running.delete(id);
		output.messages = output.messages.filter((message) => message.battle !== id);
		output.ended.push([id, null, battle?.battle.turn ?? 0, "error", battle?.battle.inputLog ?? [], error.stack]);
	}
}

function write(text) {
	const bytes = Buffer.from(text + "\n");
	for (let sent = 0; sent < bytes.length;) sent += fs.writeSync(1, bytes, sent);
}

function answer(line) {
	output = { messages: [], ended: [], defaulted: 0 };
	for (const command of JSON.parse(line)) execute(command);
	const messages = output.messages.map((message) => message.text);
	const rest = JSON.stringify({ ended: output.ended, defaulted: output.defaulted });
	write(`{"messages":[${messages}],${rest.slice(1)}`);
}

function unusable() {
	if (!format.exists) {
		const names = Dex.formats.all().filter((one) => one.effectType === "Format" && one.playerCount === 2);
		return { fatal: "unknown format", formats: names.map((one) => one.id) };
	}
	if (format.gameType !== "singles") return { fatal: `a ${format.gameType} format, and only singles are supported` };
	return null;
}

function serve() {
	const buffer = Buffer.allocUnsafe(1 << 20);
	let unfinished = [];
	for (;;) {
		const length = fs.readSync(0, buffer); // blocks; 0 once the parent has closed the pipe or died
		if (length === 0) return;
		const chunk = buffer.subarray(0, length);
		let start = 0;
		for (let end; (end = chunk.indexOf(NEWLINE, start)) >= 0; start = end + 1) {
			answer(Buffer.concat([...unfinished, chunk.subarray(start, end)]).toString());
			unfinished = [];
		}
		if (start < length) unfinished.push(Buffer.from(chunk.subarray(start)));
	}
}

const problem = unusable();
if (problem) {
	write(JSON.stringify(problem));
} else {
	Dex.forFormat(format).includeData();
	if (options.shortcuts) require("./shortcuts.js").install(format);
	write(JSON.stringify({ ready: true, random_teams: !!format.team }));
	try {
		serve();
	} catch (error) {
		if (error.code !== "EPIPE") throw error;
	}
}
