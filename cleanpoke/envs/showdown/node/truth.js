// Everything there is to know of a battle, as one plain object: what `tracker_exactness.py` and the
// tests compare a player's knowledge with. Never shown to a player.
"use strict";

// Numbers that count something in a condition, under one name each.
function counters(state) {
	const kept = {};
	for (const key of ["layers", "counter", "time", "startTime", "stage", "duration", "hp", "move", "bestStat"]) {
		if (state[key] !== undefined) kept[key] = state[key];
	}
	return kept;
}

function conditions(states) {
	return Object.fromEntries(Object.entries(states).map(([id, state]) => [id, counters(state)]));
}

function slots(moveSlots) {
	return moveSlots.map(({ id, pp, maxpp, used }) => ({ id, pp, max_pp: maxpp, used: !!used }));
}

function pokemonTruth(pokemon, index) {
	return {
		index,
		name: pokemon.name,
		species: pokemon.species.id,
		base_species: pokemon.baseSpecies.id,
		level: pokemon.level,
		gender: pokemon.gender || "N",
		hp: pokemon.hp,
		max_hp: pokemon.maxhp,
		shared: pokemon.getHealth().shared, // HP and status as the opponent would be told
		status: pokemon.fainted || !pokemon.hp ? "fnt" : pokemon.status,
		status_state: counters(pokemon.statusState),
		fainted: pokemon.fainted || !pokemon.hp,
		active: pokemon.side.active[0] === pokemon, // a fainted one stays active until it is replaced
		seen: pokemon.previouslySwitchedIn > 0,
		illusion: pokemon.illusion ? pokemon.illusion.name : null,
		boosts: { ...pokemon.boosts },
		volatiles: conditions(pokemon.volatiles),
		types: pokemon.getTypes().map((type) => type.toLowerCase()),
		ability: pokemon.ability,
		base_ability: pokemon.baseAbility,
		item: pokemon.item,
		moves: slots(pokemon.moveSlots),
		base_moves: slots(pokemon.baseMoveSlots),
		transformed: pokemon.transformed,
		tera_type: pokemon.teraType ? pokemon.teraType.toLowerCase() : null,
		terastallized: !!pokemon.terastallized,
		stats: { ...pokemon.baseStoredStats },
		active_turns: pokemon.activeTurns,
		last_move: pokemon.lastMove ? pokemon.lastMove.id : null,
	};
}

function sideTruth(side) {
	const places = new Map(side.team.map((set, index) => [set, index]));
	const pokemon = side.pokemon.map((one) => pokemonTruth(one, places.get(one.set)));
	return {
		pokemon: pokemon.sort((one, other) => one.index - other.index),
		conditions: conditions(side.sideConditions),
		slot_conditions: conditions(side.slotConditions[0] ?? {}),
	};
}

module.exports.truth = (battle) => ({
	turn: battle.turn,
	weather: battle.field.weather,
	terrain: battle.field.terrain,
	pseudo_weather: Object.keys(battle.field.pseudoWeather),
	sides: battle.sides.map(sideTruth),
});
