// Walking about, and what people say. The story is told by flags that have Emerald's numbers.
#include "game.h"

#define SB1 U32(SAVEBLOCK1_PTR)
#define SB2 U32(SAVEBLOCK2_PTR)
enum { STEP_FRAMES = 16, TURN_FRAMES = 7, STARTER = 1, FOE = 2, ROCKY = 3 };

u8 current_map, facing, step_left;
s16 player_x, player_y, offset_x, offset_y;
static u8 turn_left;

int flag(int number) { return U8(SB1 + SB1_FLAGS + (u32)(number >> 3)) >> (number & 7) & 1; }
void set_flag(int number) { U8(SB1 + SB1_FLAGS + (u32)(number >> 3)) |= (u8)(1 << (number & 7)); }

// The story so far decides alone what comes next, and one look at the screen shows it.
void show_goal(void) {
	static const struct { u16 flag; const char *goal; } story[] = {
		{FLAG_SET_WALL_CLOCK, "SET THE CLOCK"}, {FLAG_MET_NEIGHBOUR, "GREET THE OLD MAN"},
		{FLAG_MET_TINKERER, "SEE THE TINKERER"}, {FLAG_SYS_POKEMON_GET, "OPEN THE BASKET"},
		{FLAG_DEFEATED_RIVAL_ROUTE103, "BEACH: A FRIEND"}, {FLAG_SYS_POKEDEX_GET, "BACK TO TINKERER"},
		{FLAG_MET_KEEPER, "MARKET: THE CLUB"}, {FLAG_TRAINER_WOODS, "CROSS THE WOODS"},
		{FLAG_BADGE01_GET, "CITY: THE HALL"}, {0, "YOU DID IT ALL!"},
	};
	int step = 0;
	while (story[step].flag && flag(story[step].flag)) step++;
	text_box(0, 0, 20, 3);
	text_at(1, 1, story[step].goal);
}

// Money is stored combined with a key, as in Emerald.
void add_money(int amount) {
	int money = (int)(U32(SB1 + SB1_MONEY) ^ U32(SB2 + SB2_KEY)) + amount;
	U32(SB1 + SB1_MONEY) = (u32)(money < 0 ? 0 : money) ^ U32(SB2 + SB2_KEY);
}

void heal(void) { U16(PARTY + MON_HP) = U16(PARTY + MON_MAX_HP); }

// Emerald moves its save blocks at every warp: who reads them must follow the pointers.
static void move_block(u32 pointer, u32 home, u32 size, u32 shift) {
	u32 from = U32(pointer), to = home + shift;
	if (from < to)
		for (u32 i = size; i; i -= 4) U32(to + i - 4) = U32(from + i - 4);
	else
		for (u32 i = 0; i < size; i += 4) U32(to + i) = U32(from + i);
	U32(pointer) = to;
}

static void tell_ram(void) {
	const Map *map = &maps[current_map];
	S16(SB1 + SB1_X) = player_x;
	S16(SB1 + SB1_Y) = player_y;
	U8(SB1 + SB1_MAP_GROUP) = map->group;
	U8(SB1 + SB1_MAP_NUMBER) = map->number;
	U8(SB1 + SB1_PARTY_COUNT) = U8(PARTY_COUNT);
	U8(PLAYER_AVATAR + 3) = (u8)(step_left ? 2 : 0);
	int slot = 0;
	for (int person = -1; person < NUM_PEOPLE; person++) {
		if (person >= 0 && !is_present(person)) continue;
		u32 object = OBJECT_EVENTS + (u32)slot++ * 0x24;
		int x = person < 0 ? player_x : place_of(person)[0], y = person < 0 ? player_y : place_of(person)[1];
		U8(object) = 1;
		U8(object + 5) = person < 0 ? 0 : people[person].look;
		U8(object + 8) = person < 0 ? 0xFF : people[person].script;
		S16(object + 0x10) = (s16)(x + 7);
		S16(object + 0x12) = (s16)(y + 7);
		U8(object + 0x18) = person < 0 ? (u8)(facing | facing << 4) : DOWN | DOWN << 4;
	}
	for (; slot < 16; slot++) U8(OBJECT_EVENTS + (u32)slot * 0x24) = 0;
}

void next_frame(void) {
	place_sprites();
	tell_ram();
	wait_for_frame();
}

static void enter(int map, int x, int y) {
	static const struct { u8 map; u16 flag; } visits[] = {
		{TOWN, FLAG_VISITED_LITTLEROOT}, {VILLAGE, FLAG_VISITED_OLDALE},
		{MARKET, FLAG_VISITED_PETALBURG}, {CITY, FLAG_VISITED_RUSTBORO},
	};
	current_map = (u8)map;
	player_x = (s16)x, player_y = (s16)y;
	offset_x = offset_y = step_left = 0;
	for (unsigned i = 0; i < sizeof visits / sizeof *visits; i++)
		if (visits[i].map == map) set_flag(visits[i].flag);
	load_map(map);
	draw_window();
	u32 shift = random16() & 0x7C;
	move_block(SAVEBLOCK1_PTR, SAVEBLOCK1_HOME, SB1_USED, shift);
	move_block(SAVEBLOCK2_PTR, SAVEBLOCK2_HOME, SB2_USED, shift);
}

void show_title(void) {
	facing = DOWN;
	player_x = 10, player_y = 9;
	load_map(TOWN);
	show_world();
	text_box(8, 2, 14, 3);
	text_at(10, 3, "TINY TOWN");
	text_box(8, 15, 14, 3);
	text_at(10, 16, "PRESS START");
}

void world_start(void) {
	static const u8 name[8] = {0xBB, 0xBE, 0xBB, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};  // ADA
	U32(SAVEBLOCK1_PTR) = SAVEBLOCK1_HOME;
	U32(SAVEBLOCK2_PTR) = SAVEBLOCK2_HOME;
	for (u32 i = 0; i < 8; i++) U8(SB2 + SB2_NAME + i) = name[i];
	U8(SB2 + SB2_GENDER) = 0;  // whose house is the first one
	U32(SB2 + SB2_KEY) = 0xA5C3F00Du ^ random16();
	U32(SB1 + SB1_MONEY) = U32(SB2 + SB2_KEY);
	add_money(3000);
	facing = DOWN;
	enter(BEDROOM, 4, 3);
	u32 state = U32(VARIANT) * 0x9E3779B1u | 1;
	for (int tries = 0; U32(VARIANT) && tries < 50; tries++) {
		int x = 1 + (int)(variant_random(&state) % 7), y = 1 + (int)(variant_random(&state) % 6);
		if (tile_at(x, y) != '_') continue;
		player_x = (s16)x, player_y = (s16)y;
		break;
	}
	draw_window();
	show_world();
	show_goal();
	fade(0);
	say("GOOD MORNING! THE CLOCK\nHAS STOPPED. SET IT.");
}

// ---------------------------------------------------------------- scripts

static void go_home(void) {
	add_money(-500);
	heal();
	enter(HOME, 5, 5);
	show_goal();
	fade(0);
}

static int fight(int species, int level, int is_trainer, const char *greeting) {
	int outcome = battle(species, level, is_trainer, greeting);
	if (outcome == LOST) go_home();
	else fade(0);
	return outcome;
}

static void talk(int script) {
	switch (script) {
	case MOTHER:
		if (!flag(FLAG_SET_WALL_CLOCK)) say("MOTHER: YOUR CLOCK UPSTAIRS\nHAS STOPPED. SET IT, DEAR.");
		else if (!U8(PARTY_COUNT)) say("MOTHER: TAKE CARE OUTSIDE!");
		else heal(), say("MOTHER: SIT DOWN AND REST.\nTHERE. ALL BETTER!");
		break;
	case CHILD:
		say("THERE IS A BASKET IN THE\nMEADOW, AND IT MOVES!");
		break;
	case OLD_MAN:
		say("I WALKED THROUGH THE WOODS\nONCE. HAND ON THE WALL!");
		set_flag(FLAG_MET_NEIGHBOUR);
		break;
	case TINKERER:
		if (flag(FLAG_SYS_POKEDEX_GET)) say("TINKERER: THE ROAD WEST IS\nOPEN TO YOU NOW.");
		else if (flag(FLAG_DEFEATED_RIVAL_ROUTE103)) {
			say("TINKERER: YOU WON? THEN THIS\nFIELD BOOK IS FOR YOU.");
			set_flag(FLAG_SYS_POKEDEX_GET);
			say("YOU GOT THE FIELD BOOK!");
		} else if (U8(PARTY_COUNT)) say("TINKERER: LOOK FOR YOUR\nFRIEND AT THE BEACH.");
		else say("TINKERER: I HEARD LEAVES IN\nA BASKET IN THE MEADOW.");
		set_flag(FLAG_MET_TINKERER);
		break;
	case FRIEND:
		if (!U8(PARTY_COUNT)) say("FRIEND: NO PARTNER YET?\nLOOK IN THE MEADOW.");
		else if (flag(FLAG_DEFEATED_RIVAL_ROUTE103)) say("FRIEND: THE TINKERER MADE\nSOMETHING FOR YOU.");
		else {
			say("FRIEND: THERE YOU ARE!\nLET US SEE WHO IS BETTER.");
			if (fight(FOE, 4, 1, "FRIEND SENDS OUT MURK!") == WON) {
				set_flag(FLAG_DEFEATED_RIVAL_ROUTE103);
				say("FRIEND: YOU ARE GOOD! THE\nTINKERER WANTS TO SEE YOU.");
			}
		}
		break;
	case FISHER:
		say("NOTHING BITES TODAY.");
		break;
	case BOASTER:
		say("I KNOW EVERY STONE HERE.\nWELL. ALMOST EVERY STONE.");
		break;
	case KEEPER:
		if (U8(PARTY_COUNT)) heal();
		say("KEEPER: REST HERE. THE CITY\nLIES BEHIND THE WOODS.");
		set_flag(FLAG_MET_KEEPER);
		break;
	case BANDIT:
		say("BANDIT: NOBODY GETS OUT OF\nTHESE WOODS!");
		if (fight(FOE, 6, 1, "BANDIT SENDS OUT MURK!") == WON) {
			set_flag(FLAG_TRAINER_WOODS);
			say("BANDIT: NOBODY BUT YOU!");
		}
		break;
	case LEADER:
		if (flag(FLAG_BADGE01_GET)) say("LEADER: WEAR THE STONE PIN\nWITH PRIDE.");
		else {
			say("LEADER: SHOW ME WHAT YOU\nHAVE LEARNED!");
			if (fight(ROCKY, 8, 1, "LEADER SENDS OUT PEBB!") == WON) {
				set_flag(FLAG_BADGE01_GET);
				say("YOU GOT THE STONE PIN!\nTHE WORLD IS YOURS.");
			}
		}
		break;
	}
}

static void look_at(int x, int y) {
	int person = person_at(x, y);
	if (person >= 0) {
		talk(people[person].script);
		show_goal();
		return;
	}
	switch (tile_at(x, y)) {
	case 'K':
		if (flag(FLAG_SET_WALL_CLOCK)) say("TICK, TOCK.");
		else set_flag(FLAG_SET_WALL_CLOCK), say("YOU SET THE CLOCK.");
		break;
	case 'S':
		say("NORTH: THE BEACH. WEST: THE\nWOODS AND THE CITY.");
		break;
	case 'B':
		say("BOOKS ABOUT EVERYTHING.");
		break;
	case 'G':
		if (U8(PARTY_COUNT)) {
			say("THE BASKET IS EMPTY.");
			break;
		}
		say("SOMETHING LEAFY LOOKS OUT\nOF THE BASKET.");
		make_creature(PARTY, STARTER, 5);
		U8(PARTY_COUNT) = 1;
		set_flag(FLAG_SYS_POKEMON_GET);
		set_flag(FLAG_RESCUED_BIRCH);
		say("SPRIG COMES WITH YOU!");
		break;
	}
	show_goal();
}

static void menu(void) {
	static const char *const options[] = {"PARTNER", "BOOK", "EXIT"};
	U8(CONTROLS_LOCKED) = 1;
	text_box(18, 0, 12, 8);
	int chosen = ask(20, 1, options, 3, 1);
	text_clear();
	show_goal();
	if (chosen == 0) say(U8(PARTY_COUNT) ? "SPRIG IS WITH YOU." : "YOU ARE ALONE.");
	if (chosen == 1) say(flag(FLAG_SYS_POKEDEX_GET) ? "THE FIELD BOOK IS WITH YOU." : "YOU HAVE NO BOOK YET.");
	U8(CONTROLS_LOCKED) = 0;
}

// ---------------------------------------------------------------- steps

static int is_barred(const Warp *way) {
	const char *reason = 0;
	if (way->map == HOME && way->to == TOWN && !flag(FLAG_SET_WALL_CLOCK)) reason = "MOTHER: THE CLOCK FIRST!";
	if (way->map == TOWN && way->to == MEADOW && !flag(FLAG_MET_TINKERER)) reason = "SEE THE TINKERER FIRST.";
	if (way->map == MEADOW && way->to == VILLAGE && !U8(PARTY_COUNT)) reason = "TOO FAR, ALL ALONE.";
	if (way->map == VILLAGE && way->to == LANE && !flag(FLAG_SYS_POKEDEX_GET)) reason = "YOU NEED THE FIELD BOOK FOR\nTHE ROAD WEST.";
	if (reason) say(reason);
	return reason != 0;
}

static void arrive(void) {
	for (int i = 0; i < num_warps; i++) {
		const Warp *way = &warps[i];
		if (way->map != current_map || way->x != player_x || way->y != player_y) continue;
		if (is_barred(way)) {
			player_x += (facing == LEFT) - (facing == RIGHT);
			player_y += (facing == UP) - (facing == DOWN);
			facing = (u8)(facing == DOWN ? UP : facing == UP ? DOWN : facing == LEFT ? RIGHT : LEFT);
			draw_window();
			return;
		}
		U8(WARP_DESTINATION) = maps[way->to].group;
		U8(WARP_DESTINATION + 1) = maps[way->to].number;
		fade(1);
		enter(way->to, way->to_x, way->to_y);
		fade(0);
		return;
	}
	if (tile_at(player_x, player_y) == 'w' && U8(PARTY_COUNT) && random16() % 12 == 0)
		fight(FOE, 2 + (int)(random16() & 1), 0, "A WILD MURK JUMPS OUT!");
}

void world_frame(void) {
	if (step_left) {
		int speed = keys & KEY_B ? 2 : 1;
		step_left = (u8)(step_left > speed ? step_left - speed : 0);
		offset_x = (s16)(((facing == LEFT) - (facing == RIGHT)) * step_left);
		offset_y = (s16)(((facing == UP) - (facing == DOWN)) * step_left);
		next_frame();
		if (!step_left) arrive();
		return;
	}
	if (turn_left) {
		turn_left--;
		next_frame();
		return;
	}
	int dx = (facing == RIGHT) - (facing == LEFT), dy = (facing == DOWN) - (facing == UP);
	if (keys_new & KEY_START) menu();
	else if (keys_new & KEY_A) look_at(player_x + dx, player_y + dy);
	else {
		int wanted = keys & KEY_DOWN ? DOWN : keys & KEY_UP ? UP : keys & KEY_LEFT ? LEFT : keys & KEY_RIGHT ? RIGHT : 0;
		if (wanted && wanted != facing) {
			facing = (u8)wanted;  // a tap only turns
			turn_left = TURN_FRAMES;
		} else if (wanted && walkable(player_x + dx, player_y + dy)) {
			player_x = (s16)(player_x + dx), player_y = (s16)(player_y + dy);
			step_left = STEP_FRAMES;
			offset_x = (s16)(-dx * STEP_FRAMES), offset_y = (s16)(-dy * STEP_FRAMES);
			draw_window();
		}
	}
	next_frame();
}
