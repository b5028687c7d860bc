// All pictures are painted by these few functions when the game starts; nothing is copied from anywhere.
#include "game.h"

#define BG_PALETTE ((volatile u16 *)0x05000000u)
#define OBJ_PALETTE ((volatile u16 *)0x05000200u)
#define SCREEN ((volatile u16 *)0x0600C000u)
#define OAM ((volatile u16 *)0x07000000u)
enum { BG_TILES = 0x06000000, OBJ_TILES = 0x06010000, CREATURE_TILES = 128 };

static const char tiles[] = ".,wTF~SoGRQ#DH_XUKBPCV 12";
static const char indoor_tiles[] = "H_XUKBPCV ";

static int distance(int x, int y, int cx, int cy) { return (x - cx) * (x - cx) + (y - cy) * (y - cy); }
static int speckle(int x, int y, int every) { return (x * 7 + y * 13 + x * y * 5) % every == 0; }

// Outdoors: 1-3 grass, 4-5 path, 6 wood, 7-9 leaves, 10-11 water, 12 red, 13 slate, 14 plaster, 15 white.
static int paint_outdoors(char tile, int x, int y) {
	int grass = speckle(x, y, 19) ? 2 : speckle(x + 5, y, 31) ? 3 : 1;
	int edge = x == 0 || x == 15;
	switch (tile) {
	case ',': return speckle(x, y, 17) ? 5 : 4;
	case 'w': return (y & 7) > 1 && ((x + (y & 8 ? 4 : 0)) & 7) == (y & 7) / 2 + 1 ? 7 : (x + y) & 1 ? 3 : 2;
	case 'T':
		if (distance(x, y, 8, 7) < 50) return distance(x, y, 6, 5) < 8 ? 9 : speckle(x, y, 5) ? 7 : 8;
		return y > 11 && x > 5 && x < 10 ? 6 : distance(x, 2 * y, 8, 29) < 40 ? 3 : grass;
	case 'F':
		for (int i = 0; i < 3; i++) {
			int d = distance(x, y, 4 + 4 * i, i & 1 ? 11 : 5);
			if (d < 1) return 4;
			if (d < 5) return i & 1 ? 15 : 12;
		}
		return grass;
	case '~': return ((y + ((x >> 2) & 1)) & 7) == 2 && (x & 7) < 5 ? 15 : (y & 3) == 0 ? 11 : 10;
	case 'S':
		if (y > 2 && y < 10 && x > 1 && x < 14) return y == 3 || y == 9 || x == 2 || x == 13 ? 6 : (y & 1) || x > 11 ? 14 : 5;
		return y >= 10 && y < 15 && x > 6 && x < 9 ? 6 : grass;
	case 'o':
		if (distance(x, y, 8, 9) < 42) return distance(x, y, 6, 6) < 8 ? 14 : y > 11 ? 13 : 5;
		return grass;
	case 'G':
		if (y > 6 && y < 14 && x > 2 && x < 13) return (x + y) & 2 ? 6 : 5;
		return distance(x, y, 8, 7) < 14 ? 9 : grass;
	case 'R': return (y & 3) == 3 ? 6 : (x + (y & 4)) % 8 == 0 ? 5 : 12;
	case 'Q': return (y & 3) == 3 ? 0 : (x + (y & 4)) % 8 == 0 ? 10 : 13;
	case '#':
		if (x > 3 && x < 12 && y > 3 && y < 11) return x == 8 || y == 7 ? 6 : distance(x, y, 6, 5) < 4 ? 15 : 11;
		return y == 15 ? 5 : edge ? 5 : 14;
	case 'D': return x < 3 || x > 12 || y < 2 ? 14 : x == 10 && y == 9 ? 15 : (x & 3) == 3 ? 0 : 6;
	case '1': return 11;
	case '2': return y > 6 + ((x >> 1) & 3) ? 7 : 11;
	}
	return grass;
}

// Indoors: 1-3 floor, 4-6 wall, 7-9 wood, 10-11 cloth, 12 blue, 13 white, 14 green, 15 yellow.
static int paint_indoors(char tile, int x, int y) {
	int floor = y % 8 == 7 ? 3 : (x + (y & 8)) % 16 == 15 ? 2 : 1;
	int edge = x == 0 || x == 15 || y == 0 || y == 15;
	switch (tile) {
	case 'H': return y > 12 ? 6 : y == 4 ? 6 : x % 8 == 7 ? 5 : 4;
	case 'X': return x > 1 && x < 14 && y > 3 ? (y % 3 ? 10 : 11) : floor;
	case 'U': return x < 2 ? 9 : (y & 3) == 3 ? 9 : (y & 3) == 0 ? 7 : 8;
	case 'K':
		if (distance(x, y, 8, 7) < 28) return x == 8 && y > 3 && y < 8 ? 0 : y == 7 && x > 7 && x < 12 ? 0 : 13;
		return distance(x, y, 8, 7) < 40 ? 9 : y > 12 ? 6 : 4;
	case 'B':
		if (edge || y == 8) return 9;
		return (x * 5 + (y > 8) * 3) % 7 == 0 ? 10 : (x * 3 + (y > 8)) % 5 == 0 ? 12 : (x & 1) ? 14 : 15;
	case 'P': return y > 13 ? 9 : edge ? 9 : speckle(x, y, 23) ? 7 : 8;
	case 'C': return edge ? 9 : y < 6 ? 13 : (x + y) % 6 == 0 ? 11 : 10;
	case 'V': return edge ? 6 : y < 5 ? 5 : distance(x, y, 5, 9) < 7 || distance(x, y, 11, 9) < 7 ? 0 : 13;
	case ' ': return 0;
	}
	return floor;
}

// People, 16 x 32 with the feet at the bottom: 1 outline, 2 skin, 3 hair, 4 coat, 5 trousers, 6 shoes, 7 white.
static int paint_person(int way, int frame, int x, int y) {
	y -= 8;
	int head = distance(x, y, 8, 6);
	if (head < 36) {
		if (head >= 28) return 1;
		if (way == UP || y < 4) return 3;
		if ((way == LEFT && x > 9) || (way == RIGHT && x < 6)) return 3;
		if (y == 7) {
			if (way == DOWN && (x == 6 || x == 10)) return 1;
			if ((way == LEFT && x == 4) || (way == RIGHT && x == 11)) return 1;
		}
		return 2;
	}
	if (y >= 12 && y < 19) {
		int half = y < 14 ? 4 : 5, side = x - 8 < 0 ? 8 - x : x - 7;
		if (side > half) return 0;
		return side == half ? (y > 16 ? 2 : 1) : way == DOWN && x > 6 && x < 9 ? 7 : 4;
	}
	if (y >= 19 && y < 24) {
		int left = x > 3 && x < 8, right = x > 7 && x < 12;
		int lifted = frame ? left : 0;
		if (!left && !right) return 0;
		if (y > (lifted ? 20 : 21)) return y > (lifted ? 22 : 23) ? 0 : 6;
		return 5;
	}
	return 0;
}

// Creatures, 64 x 64: 1 outline, 2-4 body from light to dark, 5 eyes, 6 leaf or horn, 7 its shade.
static int paint_creature(int species, int x, int y) {
	int body = distance(x, y * 10 / 9, 32, 42), eye = distance(x, y, 25, 34) < 14 || distance(x, y, 40, 34) < 14;
	int glint = distance(x, y, 26, 32) < 3 || distance(x, y, 41, 32) < 3;
	if (species == 1) {  // two leaves on a seed
		int leaf = distance(x * 2, y, 40, 14) < 130 || distance(x * 2, y, 88, 14) < 130;
		if (leaf) return (x + y) % 7 == 0 ? 7 : 6;
		if (x > 30 && x < 34 && y > 8 && y < 22) return 7;
	}
	if (species == 2) {  // a cloud of ink
		for (int i = 0; i < 5; i++)
			if (distance(x, y, 14 + 9 * i, 52 + (i & 1) * 5) < 40) return 4;
		body -= 40;
	}
	if (species == 3) {  // stone, with edges
		int wide = x > 32 ? x - 32 : 32 - x, high = y > 40 ? y - 40 : 40 - y;
		body = wide + high < 30 && wide < 24 && high < 20 ? 100 + (wide + high) * 13 : 999;
		if (body < 999 && (x * 3 + y) % 17 == 0) return 4;
	}
	if (body >= 520) return 0;
	if (body >= 470) return 1;
	if (eye) return glint ? 5 : 1;
	if (distance(x, y, 32, 40) < 30 && y > 42) return 1;
	return distance(x, y, 24, 28) < 90 ? 2 : y > 48 ? 4 : 3;
}

// ---------------------------------------------------------------- into video memory

static void put(u32 base, int tile, int x, int y, int colour) {
	u32 address = base + (u32)tile * 32 + (u32)y * 4 + (u32)(x >> 2) * 2;
	int shift = (x & 3) * 4;
	U16(address) = (u16)((U16(address) & ~(15 << shift)) | colour << shift);
}

static int is_indoors(char tile) {
	for (const char *one = indoor_tiles; *one; one++)
		if (*one == tile) return 1;
	return 0;
}

static int number_of(char tile) {
	int number = 0;
	while (tiles[number] && tiles[number] != tile) number++;
	return number;
}

static void paint_all(void) {
	for (int i = 0; tiles[i]; i++)
		for (int y = 0; y < 16; y++)
			for (int x = 0; x < 16; x++) {
				int colour = is_indoors(tiles[i]) ? paint_indoors(tiles[i], x, y) : paint_outdoors(tiles[i], x, y);
				put(BG_TILES, 4 * i + 2 * (y >> 3) + (x >> 3), x & 7, y & 7, colour);
			}
	for (int way = DOWN; way <= RIGHT; way++)
		for (int frame = 0; frame < 2; frame++)
			for (int y = 0; y < 32; y++)
				for (int x = 0; x < 16; x++) {
					int tile = ((way - 1) * 2 + frame) * 8 + 2 * (y >> 3) + (x >> 3);
					put(OBJ_TILES, tile, x & 7, y & 7, paint_person(way, frame, x, y));
				}
	for (int species = 1; species <= 3; species++)
		for (int y = 0; y < 64; y++)
			for (int x = 0; x < 64; x++) {
				int tile = CREATURE_TILES + (species - 1) * 64 + 8 * (y >> 3) + (x >> 3);
				put(OBJ_TILES, tile, x & 7, y & 7, paint_creature(species, x, y));
			}
}

void graphics_start(void) {
	static const u16 outdoors[16] = {
		RGB(3, 3, 5), RGB(15, 25, 12), RGB(12, 22, 10), RGB(10, 19, 8), RGB(28, 25, 18), RGB(22, 19, 13),
		RGB(14, 9, 5), RGB(4, 12, 5), RGB(7, 17, 7), RGB(12, 22, 9), RGB(9, 16, 27), RGB(14, 22, 30),
		RGB(25, 9, 7), RGB(12, 13, 18), RGB(29, 27, 23), RGB(31, 31, 31)};
	static const u16 indoors[16] = {
		RGB(2, 2, 3), RGB(27, 22, 15), RGB(25, 20, 13), RGB(22, 17, 11), RGB(28, 27, 22), RGB(25, 24, 19),
		RGB(16, 13, 11), RGB(24, 16, 9), RGB(20, 12, 7), RGB(12, 7, 4), RGB(25, 10, 9), RGB(20, 7, 8),
		RGB(9, 14, 25), RGB(31, 31, 30), RGB(9, 19, 9), RGB(30, 26, 8)};
	static const u16 coats[8][4] = {  // hair, coat, trousers, shoes
		{RGB(9, 5, 3), RGB(26, 7, 6), RGB(7, 9, 18), RGB(6, 4, 3)}, {RGB(18, 9, 4), RGB(27, 20, 8), RGB(20, 10, 12), RGB(8, 4, 4)},
		{RGB(27, 21, 8), RGB(8, 19, 10), RGB(14, 10, 6), RGB(6, 4, 3)}, {RGB(24, 24, 25), RGB(14, 11, 20), RGB(9, 9, 10), RGB(4, 4, 5)},
		{RGB(20, 20, 22), RGB(29, 29, 30), RGB(10, 12, 14), RGB(5, 5, 6)}, {RGB(5, 4, 5), RGB(8, 14, 27), RGB(21, 19, 14), RGB(5, 4, 4)},
		{RGB(12, 7, 4), RGB(26, 23, 12), RGB(7, 14, 17), RGB(6, 5, 3)}, {RGB(4, 4, 5), RGB(9, 8, 10), RGB(6, 6, 7), RGB(3, 3, 3)}};
	static const u16 bodies[3][6] = {
		{RGB(31, 28, 18), RGB(28, 23, 12), RGB(22, 16, 8), RGB(31, 31, 31), RGB(10, 22, 8), RGB(6, 15, 5)},
		{RGB(20, 16, 27), RGB(14, 10, 22), RGB(9, 6, 16), RGB(31, 30, 20), RGB(9, 6, 16), RGB(6, 4, 11)},
		{RGB(25, 24, 22), RGB(19, 18, 16), RGB(12, 11, 10), RGB(31, 29, 18), RGB(12, 11, 10), RGB(8, 7, 7)}};
	for (int i = 0; i < 16; i++) BG_PALETTE[i] = outdoors[i], BG_PALETTE[16 + i] = indoors[i];
	for (int look = 0; look < 8; look++) {
		volatile u16 *palette = OBJ_PALETTE + 16 * look;
		palette[1] = RGB(5, 4, 5), palette[2] = RGB(30, 24, 18), palette[7] = RGB(31, 31, 31);
		for (int i = 0; i < 4; i++) palette[3 + i] = coats[look][i];
	}
	for (int species = 0; species < 3; species++) {
		volatile u16 *palette = OBJ_PALETTE + 16 * (8 + species);
		palette[1] = RGB(4, 3, 4);
		for (int i = 0; i < 6; i++) palette[2 + i] = bodies[species][i];
	}
	paint_all();
	IO16(0x0A) = 2 | 0 << 2 | 24 << 8;  // layer 1: the map, behind people
	hide_sprites();
}

// ---------------------------------------------------------------- what is shown

static void draw_tile(int column, int row, char tile) {
	int first = 4 * number_of(tile) | (is_indoors(tile) ? 1 << 12 : 0);
	for (int part = 0; part < 4; part++)
		SCREEN[(2 * (row & 15) + (part >> 1)) * 32 + 2 * (column & 15) + (part & 1)] = (u16)(first + part);
}

void draw_window(void) {
	// Sixteen columns fit; while a step is under way the one that is left is still in sight.
	int left = facing == LEFT ? player_x - 7 : player_x - 8;
	for (int y = player_y - 7; y <= player_y + 7; y++)
		for (int x = left; x < left + 16; x++) draw_tile(x, y, tile_at(x, y));
}

void hide_sprites(void) {
	for (int i = 0; i < 128; i++) OAM[4 * i] = 0x200;
}

static void place(int slot, int x, int y, int tile, int palette) {
	int is_seen = x > -16 && x < 240 && y > -32 && y < 160;
	OAM[4 * slot] = (u16)(is_seen ? (y & 255) | 2 << 14 : 0x200);
	OAM[4 * slot + 1] = (u16)((x & 511) | 2 << 14);
	OAM[4 * slot + 2] = (u16)(tile | 1 << 10 | palette << 12);
}

void place_sprites(void) {
	if (U8(MAIN_IN_BATTLE) & 2) return;
	int camera_x = player_x * 16 + offset_x - 112, camera_y = player_y * 16 + offset_y - 72;
	IO16(0x14) = (u16)camera_x;
	IO16(0x16) = (u16)camera_y;
	int frame = step_left ? step_left >> 3 & 1 : 0;
	place(NUM_PEOPLE, 112, 56, ((facing - 1) * 2 + frame) * 8, 0);
	for (int i = 0; i < NUM_PEOPLE; i++) {
		const u8 *at = place_of(i);
		int x = is_present(i) ? at[0] * 16 - camera_x : -99, behind = at[1] < player_y;
		place(behind ? NUM_PEOPLE + 1 + i : i, x, at[1] * 16 - camera_y - 16, 0, people[i].look);
		place(behind ? i : NUM_PEOPLE + 1 + i, -99, 0, 0, 0);
	}
}

void show_world(void) {
	draw_window();
	place_sprites();
	IO16(0x00) = 0x40 | 1 << 8 | 1 << 9 | 1 << 12;
}

static void place_creature(int slot, int x, int y, int species, int mirrored) {
	OAM[4 * slot] = (u16)y;
	OAM[4 * slot + 1] = (u16)(x | (mirrored ? 1 << 12 : 0) | 3 << 14);
	OAM[4 * slot + 2] = (u16)((CREATURE_TILES + (species - 1) * 64) | 1 << 10 | (7 + species) << 12);
}

void show_battle(int enemy) {
	hide_sprites();
	IO16(0x14) = IO16(0x16) = 0;
	for (int y = 0; y < 16; y++)
		for (int x = 0; x < 16; x++) draw_tile(x, y, y < 3 ? '1' : y == 3 ? '2' : '.');
	place_creature(0, 150, 12, enemy, 0);
	place_creature(1, 24, 52, 1, 1);
	IO16(0x00) = 0x40 | 1 << 8 | 1 << 9 | 1 << 12;
	fade(0);
}

void fade(int out) {
	IO16(0x50) = 0xFF;  // all layers grow darker
	for (int i = 0; i <= 16; i += 2) {
		IO16(0x54) = (u16)(out ? i : 16 - i);
		next_frame();
	}
	if (!out) IO16(0x50) = 0;
}
