// Where Pokémon Emerald (USA, 1.0) keeps its state, so that one reader serves the real game and this one.
// Addresses and offsets are facts from the public symbol tables; docs/emerald_env.md names the sources.
#pragma once
#include <stdint.h>
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;

#define U8(address) (*(volatile u8 *)(address))
#define U16(address) (*(volatile u16 *)(address))
#define U32(address) (*(volatile u32 *)(address))
#define S16(address) (*(volatile s16 *)(address))

#define STATE_BEGIN 0x02020000u  // cleared at the start
#define STATE_END 0x02039000u
#define STRING_VAR4 0x02021FC4u  // the text that is being shown, in Emerald's character set
#define BATTLE_TYPE_FLAGS 0x02022FECu  // bit 3: against a trainer
#define BATTLE_OUTCOME 0x0202433Au  // 1 won, 2 lost, 4 ran
#define PARTY_COUNT 0x020244E9u
#define PARTY 0x020244ECu  // 6 x 100 bytes
#define ENEMY_PARTY 0x02024744u
#define SAVEBLOCK2_HOME 0x02024A54u
#define SAVEBLOCK1_HOME 0x02025A00u
#define WARP_DESTINATION 0x020322E4u
#define BACKUP_MAP_DATA 0x02032318u  // metatile | collision << 10, with a border of 7
#define OBJECT_EVENTS 0x02037350u  // 16 x 0x24; the player is the first
#define PLAYER_AVATAR 0x02037590u
#define MESSAGE_BOX_MODE 0x020375BCu  // 0 hidden, 2 shown
#define CONTROLS_LOCKED 0x03000F2Cu
#define MAIN 0x030022C0u
#define MAIN_HELD_KEYS (MAIN + 0x2Cu)
#define MAIN_IN_BATTLE (MAIN + 0x439u)  // bit 1
#define RNG_VALUE 0x03005D80u
#define SAVEBLOCK1_PTR 0x03005D8Cu
#define SAVEBLOCK2_PTR 0x03005D90u
#define BACKUP_MAP_LAYOUT 0x03005DC0u  // width, height, pointer

// SaveBlock1
enum { SB1_X = 0, SB1_Y = 2, SB1_MAP_GROUP = 4, SB1_MAP_NUMBER = 5, SB1_PARTY_COUNT = 0x234, SB1_MONEY = 0x490 };
enum { SB1_FLAGS = 0x1270, SB1_USED = 0x1600 };
// SaveBlock2
enum { SB2_NAME = 0, SB2_GENDER = 8, SB2_KEY = 0xAC, SB2_USED = 0x100 };
// A party member of 100 bytes; bytes 0x20-0x4F are encrypted
enum { MON_PERSONALITY = 0, MON_OWNER = 4, MON_CHECKSUM = 0x1C, MON_SECRET = 0x20, MON_STATUS = 0x50 };
enum { MON_LEVEL = 0x54, MON_HP = 0x56, MON_MAX_HP = 0x58, MON_SIZE = 100 };

enum {
	FLAG_SET_WALL_CLOCK = 0x51,
	FLAG_RESCUED_BIRCH = 0x52,
	FLAG_DEFEATED_RIVAL_ROUTE103 = 0x82,
	FLAG_TRAINER_WOODS = 0x500 + 10,
	FLAG_MET_NEIGHBOUR = 0x300,  // the next three are ours alone
	FLAG_MET_TINKERER = 0x301,
	FLAG_MET_KEEPER = 0x302,
	FLAG_SYS_POKEMON_GET = 0x860,
	FLAG_SYS_POKEDEX_GET = 0x861,
	FLAG_BADGE01_GET = 0x867,
	FLAG_VISITED_LITTLEROOT = 0x86F,
	FLAG_VISITED_OLDALE = 0x870,
	FLAG_VISITED_PETALBURG = 0x876,
	FLAG_VISITED_RUSTBORO = 0x879,
};

// Ours alone, outside of what is cleared: 0 is the standard town, any other number shuffles start, people, rocks
// and the woods. Written by the environment before the first frame.
#define VARIANT 0x0203FF00u
