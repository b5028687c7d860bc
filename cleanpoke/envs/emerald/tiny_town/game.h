// What the parts of Tiny Town know of each other.
#pragma once
#include "emerald_ram.h"

#define IO16(offset) (*(volatile u16 *)(0x04000000u + (offset)))
#define RGB(r, g, b) ((u16)((r) | (g) << 5 | (b) << 10))
enum { KEY_A = 1, KEY_B = 2, KEY_SELECT = 4, KEY_START = 8, KEY_RIGHT = 16, KEY_LEFT = 32, KEY_UP = 64, KEY_DOWN = 128 };
enum { DOWN = 1, UP, LEFT, RIGHT };

// main.c
extern u16 keys, keys_new;  // held, and pressed since the last frame
void wait_for_frame(void);
u32 random16(void);

// graphics.c
void graphics_start(void);
void show_world(void);
void show_battle(int enemy);
void draw_window(void);  // the map around the player
void place_sprites(void);
void fade(int out);
void hide_sprites(void);

// text.c
void text_start(void);
void text_clear(void);
void text_box(int x, int y, int width, int height);
void text_at(int x, int y, const char *text);
void text_number(int x, int y, int number);
void bar_at(int x, int y, int width, int part, int whole);
void say(const char *text);
int ask(int x, int y, const char *const *options, int count, int columns);  // chosen option, -1 for B

// maps.c
typedef struct {
	u8 group, number, width, height, indoors;
	const char *rows;
} Map;
typedef struct {
	u8 map, x, y, to, to_x, to_y;
} Warp;
typedef struct {
	u8 map, script, look;
	u8 places[3][2];  // where they may stand; the first in the standard town
} Person;
enum { BEDROOM, HOME, TOWN, NEIGHBOUR, WORKSHOP, MEADOW, VILLAGE, BEACH, LANE, MARKET, CLUB, COAST, WOODS, CITY, HALL, NUM_MAPS };
enum { MOTHER = 1, CHILD, OLD_MAN, TINKERER, FRIEND, FISHER, BOASTER, KEEPER, BANDIT, LEADER };
enum { NUM_PEOPLE = 10 };
extern const Map maps[NUM_MAPS];
extern const Warp warps[];
extern const int num_warps;
extern const Person people[NUM_PEOPLE];
u32 variant_random(u32 *state);
void load_map(int map);
char tile_at(int x, int y);  // of the map that is loaded
int person_at(int x, int y);  // its number in `people`, or -1
const u8 *place_of(int person);
int is_present(int person);
int walkable(int x, int y);

// world.c
extern u8 current_map, facing, step_left;
extern s16 player_x, player_y, offset_x, offset_y;
int flag(int number);
void set_flag(int number);
void add_money(int amount);
void heal(void);
void show_goal(void);  // what to do next, in the upper corner
void show_title(void);
void world_start(void);
void world_frame(void);  // one frame of walking about
void next_frame(void);  // draws, tells the RAM, waits

// battle.c
enum { WON = 1, LOST = 2, RAN = 4 };
void make_creature(u32 address, int species, int level);
int battle(int species, int level, int is_trainer, const char *greeting);
