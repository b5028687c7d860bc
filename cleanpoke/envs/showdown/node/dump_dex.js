// Prints the static game data of every generation as one JSON object; `dex.py` caches and reads it.
//
// Only differences to the previous generation are printed for species and moves (`null` = removed):
// most entries never change, and the file stays a few megabytes.
"use strict";

const { Dex, toID } = require("pokemon-showdown");

const GENERATIONS = [1, 2, 3, 4, 5, 6, 7, 8, 9];
// Fan-made and unreleased things never appear in a battle on the ladder.
const LEFT_OUT = new Set(["CAP", "Custom", "CustomMove", "Future"]);

const ids = (names) => (names || []).map(toID);
const ratio = (pair) => (pair ? pair[0] / pair[1] : 0);
const included = (dex) => (thing) => thing.gen <= dex.gen && !LEFT_OUT.has(thing.isNonstandard);

function describeSpecies(dex, species) {
	return {
		id: species.id,
		name: species.name,
		number: species.num,
		types: species.types.map(toID),
		base_stats: species.baseStats,
		abilities: dex.gen >= 3 ? ids(Object.values(species.abilities)) : [],
		base_species: toID(species.baseSpecies),
		changes_from: toID(species.changesFrom || species.battleOnly || ""),
		forme: species.forme,
		genders: species.gender ? [species.gender] : ["M", "F"],
		weight_kg: species.weightkg,
		required_item: toID(species.requiredItem || ""),
		can_evolve: species.evos.some((name) => dex.species.get(name).gen <= dex.gen),
	};
}

function expectedHits(dex, move) {
	if (!move.multihit) return 1;
	if (!Array.isArray(move.multihit)) return move.multihit;
	if (move.multihit[1] === 5) return dex.gen <= 4 ? 3 : 3.1;
	return (move.multihit[0] + move.multihit[1]) / 2;
}

function maxPP(dex, move) {
	// As `Battle#calculatePP` with the three PP Ups that every Pokémon of the simulator has.
	if (move.noPPBoosts || move.id === "trumpcard") return move.pp;
	return Math.floor((move.pp * 8) / 5) - (dex.gen <= 2 && move.pp === 40 ? 3 : 0);
}

function describeSecondary(secondary) {
	return {
		chance: (secondary.chance ?? 100) / 100,
		status: secondary.status || "",
		volatile_status: toID(secondary.volatileStatus || ""),
		boosts: secondary.boosts || {},
		self_boosts: secondary.self?.boosts || {},
	};
}

function describeMove(dex, move) {
	return {
		id: move.id,
		name: move.name,
		type: toID(move.type),
		category: move.category,
		base_power: move.basePower,
		accuracy: move.accuracy === true ? 1 : move.accuracy / 100,
		never_misses: move.accuracy === true,
		pp: maxPP(dex, move),
		priority: move.priority,
		target: move.target,
		drain: ratio(move.drain),
		recoil: ratio(move.recoil),
		heal: ratio(move.heal),
		boosts: move.boosts || {},
		self_boosts: { ...(move.self?.boosts || {}), ...(move.selfBoost?.boosts || {}) },
		status: move.status || "",
		volatile_status: toID(move.volatileStatus || move.self?.volatileStatus || ""),
		side_condition: toID(move.sideCondition || ""),
		slot_condition: toID(move.slotCondition || ""),
		weather: toID(move.weather || ""),
		field: toID(move.terrain || move.pseudoWeather || ""),
		secondaries: (move.secondaries || []).map(describeSecondary),
		fixed_damage: typeof move.damage === "number" ? move.damage : 0,
		level_damage: move.damage === "level",
		one_hit_knock_out: !!move.ohko,
		crit_ratio: move.willCrit ? 6 : move.critRatio ?? 1,
		expected_hits: expectedHits(dex, move),
		self_destruct: move.selfdestruct === "always" || move.selfdestruct === "ifHit",
		self_switch: move.selfSwitch === true ? "switch" : move.selfSwitch || "",
		force_switch: !!move.forceSwitch,
		flags: Object.keys(move.flags),
		is_z: !!move.isZ,
		is_max: !!move.isMax,
	};
}

function describeTypeChart(dex) {
	const types = dex.types.all().filter((type) => !type.isNonstandard);
	const multiplier = [1, 2, 0.5, 0];
	const chart = {};
	for (const attacking of types) {
		chart[attacking.id] = {};
		for (const defending of types) {
			chart[attacking.id][defending.id] = multiplier[defending.damageTaken[attacking.name] || 0];
		}
	}
	return chart;
}

function allSpecies(dex) {
	const species = dex.species.all().filter(included(dex));
	const cosmetic = species.flatMap((one) => (one.cosmeticFormes || []).map((name) => dex.species.get(name)));
	return [...species, ...cosmetic.filter((one) => one.exists && one.gen <= dex.gen)];
}

function describeGeneration(dex) {
	const entries = (list, describe) => Object.fromEntries(list.map((thing) => [thing.id, describe(dex, thing)]));
	const names = (table) => Object.fromEntries(table.all().filter(included(dex)).map((thing) => [thing.id, thing.name]));
	return {
		species: entries(allSpecies(dex), describeSpecies),
		moves: entries(dex.moves.all().filter(included(dex)), describeMove),
		abilities: dex.gen >= 3 ? names(dex.abilities) : {},
		items: dex.gen >= 2 ? names(dex.items) : {},
		natures: Object.fromEntries(dex.natures.all().map((one) => [one.id, [one.plus || "", one.minus || ""]])),
		type_chart: describeTypeChart(dex),
	};
}

function difference(current, previous) {
	const changed = {};
	for (const id in current) {
		if (JSON.stringify(current[id]) !== JSON.stringify(previous[id])) changed[id] = current[id];
	}
	for (const id in previous) {
		if (!(id in current)) changed[id] = null;
	}
	return changed;
}

// What can stand on a Pokémon, a side or the field, over all generations: words of the vocabulary.
function conditions() {
	const volatiles = new Set();
	const sides = new Set();
	const fields = new Set();
	const weathers = new Set();
	for (const gen of GENERATIONS) {
		const dex = Dex.forGen(gen);
		Object.keys(dex.data.Conditions).forEach((id) => volatiles.add(id));
		for (const move of dex.moves.all()) {
			if (LEFT_OUT.has(move.isNonstandard)) continue;
			for (const effect of [move, move.self || {}, ...(move.secondaries || [])]) {
				if (effect.volatileStatus) volatiles.add(toID(effect.volatileStatus));
				if (effect.sideCondition) sides.add(toID(effect.sideCondition));
				if (effect.slotCondition) sides.add(toID(effect.slotCondition));
				if (effect.pseudoWeather) fields.add(toID(effect.pseudoWeather));
				if (effect.terrain) fields.add(toID(effect.terrain));
				if (effect.weather) weathers.add(toID(effect.weather));
			}
			if (move.condition || move.flags.charge) volatiles.add(move.id);
		}
		for (const table of [dex.abilities, dex.items]) {
			for (const thing of table.all()) {
				if (thing.condition && !LEFT_OUT.has(thing.isNonstandard)) volatiles.add(thing.id);
			}
		}
	}
	const sorted = (set) => [...set].sort();
	return { volatiles: sorted(volatiles), sides: sorted(sides), fields: sorted(fields), weathers: sorted(weathers) };
}

const dump = { version: require("pokemon-showdown/package.json").version, generations: {}, conditions: conditions() };
let previous = { species: {}, moves: {} };
for (const gen of GENERATIONS) {
	const current = describeGeneration(Dex.forGen(gen));
	dump.generations[gen] = {
		...current,
		species: difference(current.species, previous.species),
		moves: difference(current.moves, previous.moves),
	};
	previous = current;
}
process.stdout.write(JSON.stringify(dump));
