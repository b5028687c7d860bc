// Makes Showdown's rules run faster without changing what they do (`install(format)`).
//
// Both shortcuts leave out work that cannot have an effect. A test plays the same battles with and
// without them and holds every line and request equal.
//
// 1. For each event the rules ask every Pokémon, side and the field for handlers named onX, onAllyX,
//    onAnyX, onFoeX and onSourceX. Most of these names occur nowhere in the data of a generation.
// 2. Each turn copies every move of both active Pokémon, property by property, and looks at one of them.
"use strict";

const { Battle, Dex, Pokemon } = require("pokemon-showdown");

// An effect without onSwitchIn may answer with its onStart, so this name is always looked up.
const ALWAYS_KNOWN = "onSwitchIn";

// All names of event handlers in the data of one generation, rules and formats included.
function handlerNames(dex) {
	const names = new Set([ALWAYS_KNOWN]);
	const collect = (entry) => {
		for (const key in entry) {
			if (key.startsWith("on")) names.add(key);
		}
	};
	const { Abilities, Conditions, Items, Moves, Pokedex, Rulesets } = dex.data;
	for (const table of [Abilities, Conditions, Items, Moves, Pokedex, Rulesets]) {
		for (const id in table) {
			collect(table[id]);
			collect(table[id].condition);
		}
	}
	return names;
}

// Events that only the holder's own effects hear, as in `Battle#findEventHandlers`.
const UNPREFIXED = new Set(["BeforeTurn", "Update", "Weather", "WeatherChange", "TerrainChange"]);

function skipUnknownHandlers(known) {
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
		const onField = target instanceof Pokemon && (target.isActive || source?.isActive);
		if (onField) {
			if (own) found.push(...this.findPokemonEventHandlers(target, own));
			if (ally || any) {
				for (const pokemon of target.alliesAndSelf()) {
					if (ally) found.push(...this.findPokemonEventHandlers(pokemon, ally));
					if (any) found.push(...this.findPokemonEventHandlers(pokemon, any));
				}
			}
			if (foe || any) {
				for (const pokemon of target.foes()) {
					if (foe) found.push(...this.findPokemonEventHandlers(pokemon, foe));
					if (any) found.push(...this.findPokemonEventHandlers(pokemon, any));
				}
			}
		}
		if (source && names.source) found.push(...this.findPokemonEventHandlers(source, names.source));
		if (onField) {
			for (const side of this.sides) {
				const name = side === target.side ? own : foe;
				if (name) found.push(...this.findSideEventHandlers(side, name));
				if (any) found.push(...this.findSideEventHandlers(side, any));
			}
		}
		if (own) found.push(...this.findFieldEventHandlers(this.field, own), ...this.findBattleEventHandlers(own));
		return found;
	};

	// With `key` they also look for effects that only count down, whatever handlers they have.
	for (const method of ["findPokemonEventHandlers", "findSideEventHandlers", "findFieldEventHandlers"]) {
		const original = prototype[method];
		prototype[method] = function (holder, name, key, customHolder) {
			return key || known.has(name) ? original.call(this, holder, name, key, customHolder) : [];
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
	skipUnknownHandlers(handlerNames(dex));
	copyFewerMoves(dex);
};
