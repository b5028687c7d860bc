// Battles: one creature each, two moves, and the fields of Emerald's party that a reader looks at.
#include "game.h"

enum { SECRET_SIZE = 48, BUMP = 0, FOCUS = 1 };
static const char *const names[] = {"", "SPRIG", "MURK", "PEBB"};

// As Emerald hides them: four blocks of twelve bytes, their order told by the personality, combined with a key.
static void hide(u32 creature, int species, int level) {
	static const u8 place_of_growth[24] = {0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 2, 3, 1, 1, 2, 3, 2, 3, 1, 1, 2, 3, 2, 3};
	u32 personality = U32(creature + MON_PERSONALITY), key = personality ^ U32(creature + MON_OWNER), sum = 0;
	u32 words[SECRET_SIZE / 4] = {0};
	u32 *growth = words + 3 * place_of_growth[personality % 24];
	growth[0] = (u32)species;
	growth[1] = (u32)(level * level * level);  // experience
	for (int i = 0; i < SECRET_SIZE / 4; i++) {
		sum += (words[i] & 0xFFFF) + (words[i] >> 16);
		U32(creature + MON_SECRET + 4u * (u32)i) = words[i] ^ key;
	}
	U16(creature + MON_CHECKSUM) = (u16)sum;
}

static int full_health(int level) { return 10 + 2 * level; }

void make_creature(u32 creature, int species, int level) {
	for (u32 i = 0; i < MON_SIZE; i++) U8(creature + i) = 0;
	U32(creature + MON_PERSONALITY) = random16() | random16() << 16;
	U32(creature + MON_OWNER) = 0x00C0FFEE;
	hide(creature, species, level);
	U8(creature + MON_LEVEL) = (u8)level;
	U16(creature + MON_HP) = U16(creature + MON_MAX_HP) = (u16)full_health(level);
}

static void gain_level(int is_trainer) {
	int level = U8(PARTY + MON_LEVEL) + 1;
	if (level > 50) return;
	U8(PARTY + MON_LEVEL) = (u8)level;
	U16(PARTY + MON_MAX_HP) = (u16)full_health(level);
	U16(PARTY + MON_HP) = (u16)(U16(PARTY + MON_HP) + 2);
	hide(PARTY, 1, level);
	if (is_trainer) heal();
	say("SPRIG GREW STRONGER!");
}

static int strike(u32 target, int damage) {
	int health = U16(target + MON_HP) - damage;
	U16(target + MON_HP) = (u16)(health < 0 ? 0 : health);
	return health <= 0;
}

static void show_health(int species) {
	text_clear();
	text_box(0, 0, 14, 4);
	text_at(1, 1, names[species]);
	text_number(10, 1, U8(ENEMY_PARTY + MON_LEVEL));
	bar_at(1, 2, 12, U16(ENEMY_PARTY + MON_HP), U16(ENEMY_PARTY + MON_MAX_HP));
	text_box(16, 9, 14, 4);
	text_at(17, 10, names[1]);
	text_number(26, 10, U8(PARTY + MON_LEVEL));
	bar_at(17, 11, 12, U16(PARTY + MON_HP), U16(PARTY + MON_MAX_HP));
	text_box(0, 14, 30, 6);
}

int battle(int species, int level, int is_trainer, const char *greeting) {
	static const char *const choices[] = {"FIGHT", "RUN"}, *const moves[] = {"BUMP", "FOCUS"};
	int outcome = 0, focus = 1;
	U8(MAIN_IN_BATTLE) |= 2;
	U8(BATTLE_OUTCOME) = 0;
	U32(BATTLE_TYPE_FLAGS) = is_trainer ? 8 : 4;
	make_creature(ENEMY_PARTY, species, level);
	fade(1);
	show_battle(species);
	say(greeting);
	while (!outcome) {
		show_health(species);
		int choice = ask(3, 16, choices, 2, 2);
		if (choice == 1) {
			show_health(species);
			if (is_trainer) say("THERE IS NO RUNNING NOW!");
			else say("YOU GOT AWAY."), outcome = RAN;
			continue;
		}
		if (choice < 0) continue;
		show_health(species);
		int move = ask(3, 16, moves, 2, 2);
		if (move < 0) continue;
		show_health(species);
		if (move == FOCUS) focus = 2, say("SPRIG TAKES A DEEP BREATH.");
		else {
			int damage = (3 + U8(PARTY + MON_LEVEL) / 2 + (int)(random16() & 3)) * focus;
			int is_over = strike(ENEMY_PARTY, damage);
			focus = 1;
			show_health(species);
			say("SPRIG BUMPS!");
			if (is_over) {
				outcome = WON;
				say(is_trainer ? "YOU WON!" : "IT RUNS OFF. YOU WON!");
				add_money(is_trainer ? 400 : 60);
				gain_level(is_trainer);
				continue;
			}
		}
		int is_over = strike(PARTY, 1 + level / 3 + (int)(random16() & 1));
		show_health(species);
		say("IT BUMPS BACK!");
		if (is_over) {
			outcome = LOST;
			say("SPRIG IS TIRED OUT. YOU RUN\nALL THE WAY HOME.");
		}
	}
	U8(BATTLE_OUTCOME) = (u8)outcome;
	text_clear();
	fade(1);
	U8(MAIN_IN_BATTLE) &= (u8)~2;
	show_world();
	show_goal();
	return outcome;
}
