// The world: fifteen maps with Emerald's map numbers, the ways between them, the people in them.
//
// . grass  , path  w tall grass  T tree  F flowers  ~ water  S sign  o rock  G basket
// R Q roofs  # outer wall  D door     H inner wall  _ floor  X mat  U stairs  K clock
// B shelf  P table  C bed  V stove
#include "game.h"

const Map maps[NUM_MAPS] = {
	[BEDROOM] = {1, 1, 9, 8, 1,
		"HHHHKHHHH"
		"H_______H"
		"HC_____UH"
		"HC______H"
		"H_______H"
		"H__PP___H"
		"H______BH"
		"HHHHHHHHH"},
	[HOME] = {1, 0, 11, 9, 1,
		"HHHHHHHHHHH"
		"H_VV____BUH"
		"H_________H"
		"H___PPP___H"
		"H___PPP___H"
		"H_________H"
		"HC_______BH"
		"H____X____H"
		"HHHHHHHHHHH"},
	[TOWN] = {0, 9, 20, 20, 0,
		"TTTTTTTTT,,TTTTTTTTT"
		"T...F....,,....F...T"
		"T........,,........T"
		"T..RRRRR.,,.RRRRR..T"
		"T..RRRRR.,,.RRRRR..T"
		"T..##D##.,,.##D##..T"
		"T....,...,,...,....T"
		"T....,,,,,,,,,,.F..T"
		"T..S.....,,......S.T"
		"T.F......,,........T"
		"T....,,,,,,,,,,....T"
		"T....,RRRRRR,......T"
		"T....,RRRRRR,...F..T"
		"T....,##D###,......T"
		"T....,,,,,,,,......T"
		"T..~~~~......ww....T"
		"T..~~~~......ww....T"
		"T..~~~~..F.........T"
		"T..................T"
		"TTTTTTTTTTTTTTTTTTTT"},
	[NEIGHBOUR] = {1, 2, 9, 8, 1,
		"HHHHHHHHH"
		"HBB___VVH"
		"H_______H"
		"H__PP___H"
		"H__PP__CH"
		"H_______H"
		"H___X___H"
		"HHHHHHHHH"},
	[WORKSHOP] = {1, 4, 11, 9, 1,
		"HHHHHHHHHHH"
		"HBBB___BBBH"
		"H_________H"
		"H_________H"
		"H__PPP____H"
		"H_________H"
		"HBB_____BBH"
		"H____X____H"
		"HHHHHHHHHHH"},
	[MEADOW] = {0, 16, 20, 20, 0,
		"TTTTTTTTT,,TTTTTTTTT"
		"T........,,........T"
		"T..wwww..,,..TTT...T"
		"T..wwww..,,.....F..T"
		"T..wwww..,,.wwwww..T"
		"T........,,.wwwww..T"
		"TTTTTT...,,.wwwww..T"
		"T.....wwwwwwww.....T"
		"T.....wwwwwwww..F..T"
		"T..TTTwwwwwwww..TTTT"
		"T........,,........T"
		"T..www...,,........T"
		"T..www...,,...TTT..T"
		"T..www...,,........T"
		"T........,,..wwww..T"
		"TTTTT....,,..wwww..T"
		"T..F.....,,..wwww..T"
		"T......G.,,........T"
		"T........,,........T"
		"TTTTTTTTT,,TTTTTTTTT"},
	[VILLAGE] = {0, 10, 20, 16, 0,
		"TTTTTTTTT,,TTTTTTTTT"
		"T........,,........T"
		"T..RRRRR.,,.RRRRR..T"
		"T..RRRRR.,,.RRRRR..T"
		"T..#####.,,.#####..T"
		"T....F...,,....F...T"
		"T........,,........T"
		",,,,,,,,,,,........T"
		",,,,,,,,,,,...S....T"
		"T........,,........T"
		"T.~~~~...,,...ww...T"
		"T.~~~~...,,...ww...T"
		"T.~~~~...,,...ww...T"
		"T........,,........T"
		"T...F....,,........T"
		"TTTTTTTTT,,TTTTTTTTT"},
	[BEACH] = {0, 18, 20, 12, 0,
		"~~~~~~~~~~~~~~~~~~~~"
		"~~~~~~~~~~~~~~~~~~~~"
		"T..................T"
		"T...ww......wwww...T"
		"T...ww......wwww...T"
		"T........,,.wwww...T"
		"T..F.....,,........T"
		"T........,,...F....T"
		"T..wwww..,,........T"
		"T..wwww..,,..S.....T"
		"T........,,........T"
		"TTTTTTTTT,,TTTTTTTTT"},
	[LANE] = {0, 17, 30, 14, 0,
		"TTTTTTTTTTTTTTTTTTTTTTTTTTTTTT"
		"T......ww............TTT.....T"
		"T......ww.....TT.....ww......T"
		"T..F..........TT.....ww...F..T"
		"T.....TTTT...........ww......T"
		"T.....TTTT...wwww............T"
		",,,,,,,,,,,,,wwww,,,,,,,,,,,,,"
		",,,,,,,,,,,,,wwww,,,,,,,,,,,,,"
		"T............wwww............T"
		"T...~~~~.................F...T"
		"T...~~~~......TTT....www.....T"
		"T...~~~~......TTT....www.....T"
		"T.......F............www..S..T"
		"TTTTTTTTTTTTTTTTTTTTTTTTTTTTTT"},
	[MARKET] = {0, 0, 20, 16, 0,
		"TTTTTTTTTTTTTTTTTTTT"
		"T..................T"
		"T..RRRRR....QQQQQ..T"
		"T..RRRRR....QQQQQ..T"
		"T..#####....##D##..T"
		"T.....F.......,....T"
		"T.............,....T"
		",,,,,,,,,,,,,,,,,,,,"
		",,,,,,,,,,,,,,,,,,,,"
		"T....F......S......T"
		"T..RRRRR...~~~~~~..T"
		"T..RRRRR...~~~~~~..T"
		"T..#####...~~~~~~..T"
		"T..........F.......T"
		"T..................T"
		"TTTTTTTTTTTTTTTTTTTT"},
	[CLUB] = {8, 1, 9, 10, 1,
		"HHHHHHHHH"
		"HB_____BH"
		"H_______H"
		"H_______H"
		"H_PP_PP_H"
		"H_PP_PP_H"
		"H_______H"
		"H_______H"
		"H___X___H"
		"HHHHHHHHH"},
	[COAST] = {0, 19, 16, 20, 0,
		"TTTTTTT,,TTTTTTT"
		"T......,,......T"
		"~~.....,,..ww..T"
		"~~.....,,..ww..T"
		"~~..F..,,..ww..T"
		"~~.....,,......T"
		"~~~....,,.TTT..T"
		"~~~....,,.TTT..T"
		"~~~....,,......T"
		"~~~..ww,,...F..T"
		"~~...ww,,......T"
		"~~...ww,,,,,,,,,"
		"~~.....,,,,,,,,,"
		"T..............T"
		"T...F......ww..T"
		"T..........ww..T"
		"T....S.........T"
		"T..............T"
		"T......F.......T"
		"TTTTTTTTTTTTTTTT"},
	[WOODS] = {24, 11, 21, 21, 0, 0},  // grown by `grow_woods`
	[CITY] = {0, 3, 20, 16, 0,
		"TTTTTTTTTTTTTTTTTTTT"
		"T..................T"
		"T.QQQQQQ....QQQQQ..T"
		"T.QQQQQQ....QQQQQ..T"
		"T.######....##D##..T"
		"T.,,,,,,,,,,,,,,,..T"
		"T.,......,,.....,..T"
		"T.,.QQQQ.,,.QQQ.,..T"
		"T.,.QQQQ.,,.QQQ.,..T"
		"T.,.####.,,.###.,..T"
		"T.,......,,.....,..T"
		"T.,,,,,,,,,,,,,,,..T"
		"T........,,....S...T"
		"T...F....,,...F....T"
		"T........,,........T"
		"TTTTTTTTT,,TTTTTTTTT"},
	[HALL] = {11, 3, 9, 12, 1,
		"HHHHHHHHH"
		"HB_____BH"
		"H_______H"
		"HBB___BBH"
		"H_______H"
		"H_BB_BB_H"
		"H_______H"
		"HBB___BBH"
		"H_______H"
		"H_______H"
		"H___X___H"
		"HHHHHHHHH"},
};

const Warp warps[] = {
	{BEDROOM, 7, 2, HOME, 9, 2}, {HOME, 9, 1, BEDROOM, 6, 2},
	{HOME, 5, 7, TOWN, 5, 6}, {TOWN, 5, 5, HOME, 5, 6},
	{NEIGHBOUR, 4, 6, TOWN, 14, 6}, {TOWN, 14, 5, NEIGHBOUR, 4, 5},
	{WORKSHOP, 5, 7, TOWN, 8, 14}, {TOWN, 8, 13, WORKSHOP, 5, 6},
	{TOWN, 9, 0, MEADOW, 9, 18}, {TOWN, 10, 0, MEADOW, 10, 18},
	{MEADOW, 9, 19, TOWN, 9, 1}, {MEADOW, 10, 19, TOWN, 10, 1},
	{MEADOW, 9, 0, VILLAGE, 9, 14}, {MEADOW, 10, 0, VILLAGE, 10, 14},
	{VILLAGE, 9, 15, MEADOW, 9, 1}, {VILLAGE, 10, 15, MEADOW, 10, 1},
	{VILLAGE, 9, 0, BEACH, 9, 10}, {VILLAGE, 10, 0, BEACH, 10, 10},
	{BEACH, 9, 11, VILLAGE, 9, 1}, {BEACH, 10, 11, VILLAGE, 10, 1},
	{VILLAGE, 0, 7, LANE, 28, 6}, {VILLAGE, 0, 8, LANE, 28, 7},
	{LANE, 29, 6, VILLAGE, 1, 7}, {LANE, 29, 7, VILLAGE, 1, 8},
	{LANE, 0, 6, MARKET, 18, 7}, {LANE, 0, 7, MARKET, 18, 8},
	{MARKET, 19, 7, LANE, 1, 6}, {MARKET, 19, 8, LANE, 1, 7},
	{MARKET, 14, 4, CLUB, 4, 7}, {CLUB, 4, 8, MARKET, 14, 5},
	{MARKET, 0, 7, COAST, 14, 11}, {MARKET, 0, 8, COAST, 14, 12},
	{COAST, 15, 11, MARKET, 1, 7}, {COAST, 15, 12, MARKET, 1, 8},
	{COAST, 7, 0, WOODS, 9, 19}, {COAST, 8, 0, WOODS, 9, 19}, {WOODS, 9, 20, COAST, 7, 1},
	{WOODS, 11, 0, CITY, 9, 14}, {CITY, 9, 15, WOODS, 11, 1}, {CITY, 10, 15, WOODS, 11, 1},
	{CITY, 14, 4, HALL, 4, 9}, {HALL, 4, 10, CITY, 14, 5},
};
const int num_warps = sizeof warps / sizeof *warps;

const Person people[NUM_PEOPLE] = {
	{HOME, MOTHER, 1, {{7, 5}, {3, 5}, {8, 3}}},
	{TOWN, CHILD, 2, {{12, 8}, {7, 9}, {16, 10}}},
	{NEIGHBOUR, OLD_MAN, 3, {{2, 4}, {6, 2}, {2, 2}}},
	{WORKSHOP, TINKERER, 4, {{5, 3}, {3, 2}, {8, 3}}},
	{BEACH, FRIEND, 5, {{10, 3}, {6, 6}, {15, 7}}},
	{VILLAGE, FISHER, 6, {{6, 11}, {6, 10}, {6, 12}}},
	{LANE, BOASTER, 2, {{10, 9}, {18, 4}, {24, 9}}},
	{CLUB, KEEPER, 4, {{4, 3}, {2, 2}, {6, 2}}},
	{WOODS, BANDIT, 7, {{11, 1}, {11, 1}, {11, 1}}},  // in the way out
	{HALL, LEADER, 1, {{4, 2}, {3, 2}, {5, 2}}},
};

static char grid[32 * 24];
static int loaded;

// Xorshift: nothing that is drawn here depends on what has been played.
u32 variant_random(u32 *state) {
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state >> 8;
}

static u32 variant_seed(int what) { return (U32(VARIANT) + 1) * 0x9E3779B1u ^ (u32)(what + 1) * 0x85EBCA6Bu; }

const u8 *place_of(int person) {
	u32 state = variant_seed(100 + person);
	return people[person].places[U32(VARIANT) ? variant_random(&state) % 3 : 0];
}

int is_present(int person) {
	return people[person].map == loaded && !(people[person].script == BANDIT && flag(FLAG_TRAINER_WOODS));
}

int person_at(int x, int y) {
	for (int i = 0; i < NUM_PEOPLE; i++)
		if (is_present(i) && place_of(i)[0] == x && place_of(i)[1] == y) return i;
	return -1;
}

char tile_at(int x, int y) {
	const Map *map = &maps[loaded];
	if (x < 0 || y < 0 || x >= map->width || y >= map->height) return map->indoors ? ' ' : 'T';
	return grid[y * map->width + x];
}

int walkable(int x, int y) {
	char tile = tile_at(x, y);
	for (const char *free = ".,w_FXUD"; *free; free++)
		if (tile == *free) return person_at(x, y) < 0;
	return 0;
}

// A maze: rooms at odd places, joined by a depth-first walk; every variant has its own.
static void grow_woods(void) {
	enum { SIZE = 21, ROOMS = 10 };
	u32 state = variant_seed(200);
	static u8 trail[ROOMS * ROOMS];
	for (int i = 0; i < SIZE * SIZE; i++) grid[i] = 'T';
	int length = 1, room = 4;
	trail[0] = (u8)room;
	grid[1 * SIZE + 2 * room + 1] = '.';
	while (length) {
		room = trail[length - 1];
		int x = room % ROOMS, y = room / ROOMS, ways[4], count = 0;
		static const s8 steps[4][2] = {{1, 0}, {-1, 0}, {0, 1}, {0, -1}};
		for (int i = 0; i < 4; i++) {
			int nx = x + steps[i][0], ny = y + steps[i][1];
			int inside = nx >= 0 && ny >= 0 && nx < ROOMS && ny < ROOMS;
			if (inside && grid[(2 * ny + 1) * SIZE + 2 * nx + 1] == 'T') ways[count++] = i;
		}
		if (!count) {
			length--;
			continue;
		}
		const s8 *step = steps[ways[variant_random(&state) % (u32)count]];
		grid[(2 * y + 1 + step[1]) * SIZE + 2 * x + 1 + step[0]] = variant_random(&state) % 6 ? '.' : 'w';
		x += step[0], y += step[1];
		grid[(2 * y + 1) * SIZE + 2 * x + 1] = '.';
		trail[length++] = (u8)(y * ROOMS + x);
	}
	grid[20 * SIZE + 9] = ',';
	grid[0 * SIZE + 11] = ',';
	// The bandit's place has a second way in, so that there is always somewhere to stand before him.
	grid[1 * SIZE + 10] = '.';
}

// Rocks on open ground: with grass all around, one can always be walked around.
static void scatter_rocks(const Map *map) {
	u32 state = variant_seed(300 + loaded);
	for (int tries = 0; tries < 24; tries++) {
		int x = 1 + (int)(variant_random(&state) % (map->width - 2u));
		int y = 1 + (int)(variant_random(&state) % (map->height - 2u)), open = 1;
		for (int dy = -1; dy <= 1; dy++)
			for (int dx = -1; dx <= 1; dx++)
				open &= tile_at(x + dx, y + dy) == '.' && person_at(x + dx, y + dy) < 0;
		if (open) grid[y * map->width + x] = 'o';
	}
}

// Where Emerald keeps its map: metatile, and collision in bits 10 and 11, with a border of 7.
static void publish_map(const Map *map) {
	int width = map->width + 15, height = map->height + 14;
	U32(BACKUP_MAP_LAYOUT) = (u32)width;
	U32(BACKUP_MAP_LAYOUT + 4) = (u32)height;
	U32(BACKUP_MAP_LAYOUT + 8) = BACKUP_MAP_DATA;
	for (int y = 0; y < height; y++)
		for (int x = 0; x < width; x++) {
			char tile = tile_at(x - 7, y - 7);
			int free = 0;
			for (const char *one = ".,w_FXUD"; *one; one++) free |= tile == *one;
			U16(BACKUP_MAP_DATA + 2u * (u32)(y * width + x)) = (u16)(tile | (free ? 0 : 0xC00));
		}
}

void load_map(int map) {
	loaded = map;
	if (map == WOODS) grow_woods();
	else for (int i = 0; i < maps[map].width * maps[map].height; i++) grid[i] = maps[map].rows[i];
	if (U32(VARIANT) && !maps[map].indoors && map != WOODS) scatter_rocks(&maps[map]);
	publish_map(&maps[map]);
}
