// Tiny Town: a small role-playing game of our own, played on the real mGBA core. Title screen and frames.
#include "game.h"

u16 keys, keys_new;
extern void on_interrupt(void);

void *memset(void *to, int value, unsigned size) {
	for (u8 *byte = to; size--;) *byte++ = (u8)value;
	return to;
}

void *memcpy(void *to, const void *from, unsigned size) {
	u8 *byte = to;
	for (const u8 *source = from; size--;) *byte++ = *source++;
	return to;
}

// Emerald's generator, and as there one step in every frame.
u32 random16(void) {
	U32(RNG_VALUE) = U32(RNG_VALUE) * 1103515245u + 24691u;
	return U32(RNG_VALUE) >> 16;
}

void wait_for_frame(void) {
	__asm__ volatile("swi 5" ::: "r0", "r1", "r2", "r3", "memory");  // until the next picture
	u16 held = (u16)(~IO16(0x130) & 0x3FF);
	keys_new = (u16)(held & ~keys);
	keys = held;
	U16(MAIN_HELD_KEYS) = held;
	random16();
}

int main(void) {
	IO16(0x00) = 0x80;  // screen off
	U32(0x03007FFC) = (u32)on_interrupt;
	IO16(0x04) = 8;
	IO16(0x200) = 1;
	IO16(0x208) = 1;
	for (u32 address = STATE_BEGIN; address < STATE_END; address += 4) U32(address) = 0;
	U32(SAVEBLOCK1_PTR) = U32(SAVEBLOCK2_PTR) = U32(RNG_VALUE) = 0;
	U8(MAIN_IN_BATTLE) = U8(CONTROLS_LOCKED) = 0;
	graphics_start();
	text_start();
	show_title();
	do wait_for_frame();
	while (!(keys_new & (KEY_START | KEY_A)));
	text_clear();
	world_start();
	for (;;) world_frame();
}
