// Answers one question about teams: {task, format, teams} as JSON on stdin, the answers on stdout.
//   validate: packed teams -> for each the list of its problems, [] when legal
//   pack: teams as text of the team builder (or packed already) -> packed teams
//   unpack: packed teams -> lists of sets        export: packed teams -> text
//   formats: nothing -> ids of all formats
"use strict";

const { Dex, TeamValidator, Teams } = require("pokemon-showdown");

const { task, format, teams } = JSON.parse(require("fs").readFileSync(0, "utf8"));

const tasks = {
	validate(team) {
		const sets = Teams.unpack(team);
		if (!sets) return ["not a team in Showdown's packed format"];
		return tasks.validator.validateTeam(sets) || [];
	},
	pack: (text) => Teams.pack(Teams.import(text)),
	unpack: (team) => Teams.unpack(team),
	export: (team) => Teams.export(Teams.unpack(team)),
};

function answer() {
	if (task === "formats") {
		return Dex.formats.all().filter((one) => one.effectType === "Format").map((one) => one.id);
	}
	if (task === "validate") {
		if (!Dex.formats.get(format).exists) return null;
		tasks.validator = TeamValidator.get(format);
	}
	return teams.map(tasks[task]);
}

process.stdout.write(JSON.stringify(answer()));
