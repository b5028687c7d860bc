@ Header and start-up of Tiny Town. The logo area of the header stays empty; mGBA needs only bytes 0x03 and 0xB2.
    .section .header, "ax"
    .arm
    .global _start
_start:
    b    start
    .space 156, 0
    .ascii "TINYTOWN\0\0\0\0"       @ 0xA0 title
    .ascii "ZTTE"                   @ 0xAC game code, our own
    .ascii "00"
    .byte  0x96
    .byte  0, 0
    .space 7, 0
    .byte  2                        @ 0xBC version
    .byte  0                        @ 0xBD checksum, written by build.py
    .space 2, 0
start:
    mov  r0, #0x12                  @ stack of the interrupt mode
    msr  cpsr_c, r0
    ldr  sp, =0x03007FA0
    mov  r0, #0x1F                  @ and of the system mode
    msr  cpsr_c, r0
    ldr  sp, =0x03007F00
    ldr  r0, =__data_load
    ldr  r1, =__data_start
    ldr  r2, =__data_end
1:  cmp  r1, r2
    ldrlo r3, [r0], #4
    strlo r3, [r1], #4
    blo  1b
    ldr  r1, =__bss_start
    ldr  r2, =__bss_end
    mov  r3, #0
2:  cmp  r1, r2
    strlo r3, [r1], #4
    blo  2b
    ldr  r0, =main
    mov  lr, pc
    bx   r0
3:  b    3b
    .pool

    .section .iwram, "awx"
    .arm
    .global on_interrupt
on_interrupt:                       @ acknowledges whatever came
    mov  r0, #0x04000000
    add  r0, r0, #0x200
    ldrh r1, [r0, #2]
    strh r1, [r0, #2]
    ldr  r2, =0x03007FF8            @ the BIOS waits for these flags
    ldrh r3, [r2]
    orr  r3, r3, r1
    strh r3, [r2]
    bx   lr
    .pool
