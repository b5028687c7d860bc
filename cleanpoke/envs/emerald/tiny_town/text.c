// Letters, boxes and menus on the first layer, in our own five by seven dots.
#include "game.h"

#define LAYER ((volatile u16 *)0x0600E000u)
#define PALETTE ((volatile u16 *)0x050001E0u)
enum { PAPER = 1, INK, FRAME, HEALTH, LOW, EMPTY };
enum { BLANK = 1, FIRST_BORDER = 2, FIRST_BAR = 10, FIRST_GLYPH = 27, TILES = 0x06008000, ENTRY = 0xF000 };
static const char letters[] = " ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?':->*";
static const u8 dots[][7] = {
	{0, 0, 0, 0, 0, 0, 0}, {14, 17, 17, 31, 17, 17, 17}, {30, 17, 17, 30, 17, 17, 30}, {14, 17, 16, 16, 16, 17, 14},
	{28, 18, 17, 17, 17, 18, 28}, {31, 16, 16, 30, 16, 16, 31}, {31, 16, 16, 30, 16, 16, 16}, {14, 17, 16, 19, 17, 17, 15},
	{17, 17, 17, 31, 17, 17, 17}, {14, 4, 4, 4, 4, 4, 14}, {7, 2, 2, 2, 2, 18, 12}, {17, 18, 20, 24, 20, 18, 17},
	{16, 16, 16, 16, 16, 16, 31}, {17, 27, 21, 21, 17, 17, 17}, {17, 25, 25, 21, 19, 19, 17}, {14, 17, 17, 17, 17, 17, 14},
	{30, 17, 17, 30, 16, 16, 16}, {14, 17, 17, 17, 21, 18, 13}, {30, 17, 17, 30, 20, 18, 17}, {15, 16, 16, 14, 1, 1, 30},
	{31, 4, 4, 4, 4, 4, 4}, {17, 17, 17, 17, 17, 17, 14}, {17, 17, 17, 17, 10, 10, 4}, {17, 17, 17, 21, 21, 27, 17},
	{17, 10, 10, 4, 10, 10, 17}, {17, 17, 10, 10, 4, 4, 4}, {31, 1, 2, 4, 8, 16, 31}, {14, 17, 19, 21, 25, 17, 14},
	{4, 12, 4, 4, 4, 4, 14}, {14, 17, 1, 2, 4, 8, 31}, {30, 1, 1, 14, 1, 1, 30}, {2, 6, 10, 18, 31, 2, 2},
	{31, 16, 30, 1, 1, 17, 14}, {6, 8, 16, 30, 17, 17, 14}, {31, 1, 2, 2, 4, 4, 4}, {14, 17, 17, 14, 17, 17, 14},
	{14, 17, 17, 15, 1, 2, 12}, {0, 0, 0, 0, 0, 12, 12}, {0, 0, 0, 0, 4, 4, 8}, {4, 4, 4, 4, 4, 0, 4},
	{14, 17, 1, 6, 4, 0, 4}, {4, 4, 8, 0, 0, 0, 0}, {0, 12, 12, 0, 12, 12, 0}, {0, 0, 0, 31, 0, 0, 0},
	{8, 12, 14, 15, 14, 12, 8}, {0, 0, 31, 14, 4, 0, 0}};

static void put(int tile, int x, int y, int colour) {
	u32 address = TILES + (u32)tile * 32 + (u32)y * 4 + (u32)(x >> 2) * 2;
	int shift = (x & 3) * 4;
	U16(address) = (u16)((U16(address) & ~(15 << shift)) | colour << shift);
}

void text_start(void) {
	static const u16 colours[] = {0, RGB(31, 31, 29), RGB(6, 6, 9), RGB(11, 13, 20), RGB(8, 23, 9), RGB(28, 8, 6), RGB(21, 21, 20)};
	for (unsigned i = 0; i < sizeof colours / sizeof *colours; i++) PALETTE[i] = colours[i];
	for (int y = 0; y < 8; y++)
		for (int x = 0; x < 8; x++) {
			put(BLANK, x, y, PAPER);
			// Border: the three rows of three tiles around a box, without the middle.
			for (int place = 0, tile = FIRST_BORDER; place < 9; place++) {
				if (place == 4) continue;
				int column = place % 3, row = place / 3;
				int outside = (column == 0 && x < 2) || (column == 2 && x > 5) || (row == 0 && y < 2) || (row == 2 && y > 5);
				int line = (column == 0 && x == 2) || (column == 2 && x == 5) || (row == 0 && y == 2) || (row == 2 && y == 5);
				int corner = (column != 1 && row != 1) && (column == 0 ? x == 2 : x == 5) && (row == 0 ? y == 2 : y == 5);
				put(tile++, x, y, corner ? 0 : line && !outside ? FRAME : outside ? 0 : PAPER);
			}
			// A bar's tile, from empty to full, green and red.
			for (int full = 0; full <= 8; full++) {
				int inside = y > 1 && y < 6;
				put(FIRST_BAR + full, x, y, inside ? (x < full ? HEALTH : EMPTY) : PAPER);
				if (full) put(FIRST_BAR + 8 + full, x, y, inside ? (x < full ? LOW : EMPTY) : PAPER);
			}
			for (int i = 0; letters[i]; i++) {
				int is_ink = x > 0 && x < 6 && y < 7 && (dots[i][y] >> (5 - x) & 1);
				put(FIRST_GLYPH + i, x, y, is_ink ? INK : PAPER);
			}
		}
	IO16(0x08) = 0 | 2 << 2 | 28 << 8;  // layer 0: text, before everything
	text_clear();
}

void text_clear(void) {
	for (int i = 0; i < 1024; i++) LAYER[i] = 0;
}

static void put_tile(int x, int y, int tile) { LAYER[y * 32 + x] = (u16)(ENTRY | tile); }

void text_box(int left, int top, int width, int height) {
	for (int y = 0; y < height; y++)
		for (int x = 0; x < width; x++) {
			int column = x == 0 ? 0 : x == width - 1 ? 2 : 1, row = y == 0 ? 0 : y == height - 1 ? 2 : 1;
			int place = row * 3 + column;
			put_tile(left + x, top + y, place == 4 ? BLANK : FIRST_BORDER + place - (place > 4));
		}
}

static void put_letter(int x, int y, char letter) {
	int number = 0;
	while (letters[number] && letters[number] != letter) number++;
	put_tile(x, y, FIRST_GLYPH + (letters[number] ? number : 0));
}

void text_at(int x, int y, const char *text) {
	for (; *text; text++) put_letter(x++, y, *text);
}

void text_number(int x, int y, int number) {
	if (number > 9) put_letter(x, y, (char)('0' + number / 10 % 10));
	put_letter(x + 1, y, (char)('0' + number % 10));
}

void bar_at(int x, int y, int width, int part, int whole) {
	int length = whole ? (part * width * 8 + whole - 1) / whole : 0, is_low = part * 4 < whole;
	for (int i = 0; i < width; i++) {
		int full = length > 8 ? 8 : length;
		put_tile(x + i, y, FIRST_BAR + full + (is_low && full ? 8 : 0));
		length -= full;
	}
}

static u8 emerald_letter(char letter) {
	if (letter >= 'A' && letter <= 'Z') return (u8)(0xBB + letter - 'A');
	if (letter >= '0' && letter <= '9') return (u8)(0xA1 + letter - '0');
	switch (letter) {
	case '!': return 0xAB;
	case '?': return 0xAC;
	case '.': return 0xAD;
	case '-': return 0xAE;
	case '\'': return 0xB4;
	case ',': return 0xB8;
	case ':': return 0xF0;
	case '\n': return 0xFE;
	}
	return 0;
}

// Shows two lines letter by letter; A or B goes on.
void say(const char *text) {
	U8(MESSAGE_BOX_MODE) = 2;
	U8(CONTROLS_LOCKED) = 1;
	u32 length = 0;
	for (; text[length]; length++) U8(STRING_VAR4 + length) = emerald_letter(text[length]);
	U8(STRING_VAR4 + length) = 0xFF;
	text_box(0, 14, 30, 6);
	int x = 1, y = 15;
	for (u32 i = 0; i < length; i++) {
		if (text[i] == '\n') x = 1, y += 2;
		else put_letter(x++, y, text[i]);
		if (i & 1) next_frame();
	}
	int time = 0;
	do {
		put_letter(28, 18, time++ >> 4 & 1 ? ' ' : '*');
		next_frame();
	} while (!(keys_new & (KEY_A | KEY_B)));
	for (int row = 14; row < 20; row++)
		for (int column = 0; column < 30; column++) LAYER[row * 32 + column] = 0;
	U8(MESSAGE_BOX_MODE) = U8(CONTROLS_LOCKED) = 0;
	next_frame();
}

// A menu of `columns` columns, fourteen letters apart; a row is two lines high.
int ask(int x, int y, const char *const *options, int count, int columns) {
	int chosen = 0;
	for (int i = 0; i < count; i++) text_at(x + i % columns * 14, y + i / columns * 2, options[i]);
	for (;;) {
		for (int i = 0; i < count; i++)
			put_letter(x - 1 + i % columns * 14, y + i / columns * 2, i == chosen ? '>' : ' ');
		next_frame();
		int step = keys_new & KEY_RIGHT ? (columns > 1) : keys_new & KEY_LEFT ? -(columns > 1) : 0;
		step += keys_new & KEY_DOWN ? columns : keys_new & KEY_UP ? -columns : 0;
		if (chosen + step >= 0 && chosen + step < count) chosen += step;
		if (keys_new & KEY_A) return chosen;
		if (keys_new & (KEY_B | KEY_START)) return -1;
	}
}
