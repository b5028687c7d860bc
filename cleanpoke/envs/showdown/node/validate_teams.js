// Reads {format, teams} as JSON on stdin; prints {problems}: for each packed team the list of what the
// format's rules forbid, [] when it is legal. An unknown format gives {formats} instead: all there are.
"use strict";

const { Dex, TeamValidator, Teams } = require("pokemon-showdown");

const { format, teams } = JSON.parse(require("fs").readFileSync(0, "utf8"));

function answer() {
	if (!Dex.formats.get(format).exists) {
		return { formats: Dex.formats.all().filter((one) => one.effectType === "Format").map((one) => one.id) };
	}
	const validator = TeamValidator.get(format);
	const problems = teams.map((team) => {
		const sets = Teams.unpack(team);
		return sets ? validator.validateTeam(sets) || [] : ["it is not in Showdown's packed format"];
	});
	return { problems };
}

process.stdout.write(JSON.stringify(answer()));
