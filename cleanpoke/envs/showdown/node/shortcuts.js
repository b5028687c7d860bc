// Makes Showdown's rules run faster without changing what they do (`install(format)`).
//
// Both shortcuts leave out work that cannot have an effect. A test plays the same battles with and
// without them and holds every line and request equal.
//
// 1. For each event the rules ask every Pokémon, side and the field for handlers named onX, onAllyX,
//    onAnyX, onFoeX and onSourceX. Most of these names occur nowhere in the data of a generation, and of
//    the others a Pokémon's ability, item and conditions have few.
// 2. Each turn copies every move of both active Pokémon, property by property, and looks at one of them.
"use strict";

const { Battle, Dex, Pokemon } = require("pokemon-showdown");

// An effect without onSwitchIn may answer with its onStart, so this name is always looked up.
const ALWAYS_KNOWN = "onSwitchIn";

const NONE = Object.freeze([]);

const handlerNames = (effect) => Object.keys(effect).filter((key) => key.startsWith("on"));

// All names of event handlers in the data of one generation, rules and formats included.
function allHandlerNames(dex) {
	const names = new Set([ALWAYS_KNOWN]);
	const { Abilities, Conditions, Items, Moves, Pokedex, Rulesets } = dex.data;
	for (const table of [Abilities, Conditions, Items, Moves, Pokedex, Rulesets]) {
		for (const id in table) {
			for (const effect of [table[id], table[id].condition ?? {}]) handlerNames(effect).forEach((name) => names.add(name));
		}
	}
	return names;
}

// Functions that tell whether a Pokémon or the field can have a handler of some name at all.
function makeListeners(dex) {
	const ofConditions = new Map();
	const ofCondition = (id) => {
		let names = ofConditions.get(id);
		if (!names) ofConditions.set(id, (names = new Set(handlerNames(dex.conditions.getByID(id)))));
		return names;
	};
	const anyListens = (conditions, name) => {
		for (const id in conditions) {
			if (ofCondition(id).has(name)) return true;
		}
		return false;
	};
	// What comes from ability, item and species changes rarely and is kept on the Pokémon.
	const kept = Symbol("handlers of ability, item and species");
	const lasting = (pokemon) => {
		const last = pokemon[kept];
		const { ability, item, baseSpecies } = pokemon;
		if (last && last.ability === ability && last.item === item && last.baseSpecies === baseSpecies) return last.names;
		const effects = [pokemon.getAbility(), pokemon.getItem(), baseSpecies];
		const names = new Set(effects.flatMap(handlerNames));
		pokemon[kept] = { ability, item, baseSpecies, names };
		return names;
	};
	return {
		pokemon: (pokemon, name) =>
			name === ALWAYS_KNOWN ||
			lasting(pokemon).has(name) ||
			(pokemon.status !== "" && ofCondition(pokemon.status).has(name)) ||
			anyListens(pokemon.volatiles, name) ||
			anyListens(pokemon.side.slotConditions[pokemon.position], name),
		side: (side, name) => anyListens(side.sideConditions, name),
		field: (field, name) =>
			anyListens(field.pseudoWeather, name) ||
			(field.weather !== "" && ofCondition(field.weather).has(name)) ||
			(field.terrain !== "" && ofCondition(field.terrain).has(name)),
	};
}

// Events that only the holder's own effects hear, as in `Battle#findEventHandlers`.
const UNPREFIXED = new Set(["BeforeTurn", "Update", "Weather", "WeatherChange", "TerrainChange"]);

function skipMissingHandlers(dex) {
	const known = allHandlerNames(dex);
	const listens = makeListeners(dex);
	const { prototype } = Battle;
	// Event to the names of its handlers, "" for a name that nothing has; null when nothing has any.
	// Being made once, the names are also cheaper to look up than ones that are put together each time.
	const namesOf = new Map();
	const makeNames = (event) => {
		const present = (prefix) => (known.has(prefix + event) ? prefix + event : "");
		const prefixed = (prefix) => (UNPREFIXED.has(event) ? "" : present(prefix));
		const names = {
			own: present("on"),
			ally: prefixed("onAlly"),
			any: prefixed("onAny"),
			foe: prefixed("onFoe"),
			source: prefixed("onSource"),
		};
		namesOf.set(event, Object.values(names).some(Boolean) ? names : null);
		return namesOf.get(event);
	};

	const { findEventHandlers } = prototype;
	prototype.findEventHandlers = function (target, event, source) {
		let names = namesOf.get(event);
		if (names === undefined) names = makeNames(event);
		if (this.events || (names && !(target instanceof Pokemon) && target !== this)) {
			return findEventHandlers.call(this, target, event, source);
		}
		const found = [];
		if (names === null) return found;
		const { own, ally, any, foe } = names;
		const add = (handlers) => {
			for (const handler of handlers) found.push(handler);
		};
		const onField = target instanceof Pokemon && (target.isActive || source?.isActive);
		if (onField) {
			if (own) add(this.findPokemonEventHandlers(target, own));
			if (ally || any) {
				for (const pokemon of target.alliesAndSelf()) {
					if (ally) add(this.findPokemonEventHandlers(pokemon, ally));
					if (any) add(this.findPokemonEventHandlers(pokemon, any));
				}
			}
			if (foe || any) {
				for (const pokemon of target.foes()) {
					if (foe) add(this.findPokemonEventHandlers(pokemon, foe));
					if (any) add(this.findPokemonEventHandlers(pokemon, any));
				}
			}
		}
		if (source && names.source) add(this.findPokemonEventHandlers(source, names.source));
		if (onField) {
			for (const side of this.sides) {
				const name = side === target.side ? own : foe;
				if (name) add(this.findSideEventHandlers(side, name));
				if (any) add(this.findSideEventHandlers(side, any));
			}
		}
		if (own) {
			add(this.findFieldEventHandlers(this.field, own));
			add(this.findBattleEventHandlers(own));
		}
		return found;
	};

	// With `key` they also look for effects that only count down, whatever handlers they have.
	for (const kind of ["Pokemon", "Side", "Field"]) {
		const method = `find${kind}EventHandlers`;
		const original = prototype[method];
		const mayHave = listens[kind.toLowerCase()];
		prototype[method] = function (holder, name, key, customHolder) {
			return key || mayHave(holder, name) ? original.call(this, holder, name, key, customHolder) : NONE;
		};
	}
}

// At the end of a turn each move that an active Pokémon has is copied to ask for its onDisableMove, and
// few moves have one. The others are looked at in the Dex itself, which is frozen: writing would throw.
function copyFewerMoves(dex) {
	const { getActiveMove } = dex;
	let turnEnds = false;
	dex.getActiveMove = (move) => {
		if (turnEnds && typeof move === "string") {
			const shared = dex.moves.get(move);
			if (!shared.onDisableMove) return shared;
		}
		return getActiveMove.call(dex, move);
	};
	const { endTurn } = Battle.prototype;
	Battle.prototype.endTurn = function () {
		turnEnds = true;
		try {
			return endTurn.call(this);
		} finally {
			turnEnds = false;
		}
	};
}

exports.install = (format) => {
	const dex = Dex.forFormat(format);
	skipMissingHandlers(dex);
	copyFewerMoves(dex);
};
