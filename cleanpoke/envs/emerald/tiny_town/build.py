"""Builds tiny_town.gba from its sources, with Debian's gcc-arm-none-eabi; equal compilers give equal bytes.

python cleanpoke/envs/emerald/tiny_town/build.py
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
ROM = FOLDER / "tiny_town.gba"
SOURCES = ("start.s", "main.c", "world.c", "battle.c", "maps.c", "graphics.c", "text.c")
COMPILER = "arm-none-eabi-gcc"
FLAGS = (
    *("-mcpu=arm7tdmi", "-mthumb", "-mthumb-interwork", "-O2", "-std=gnu11", "-ffreestanding", "-nostdlib"),
    *("-Wall", "-Wextra", "-Wa,-mthumb-interwork", "-T", "tiny_town.ld"),
)
TITLE, CHECKSUM = 0xA0, 0xBD
BLOCK = 1024


def build() -> bytes:
    """The cartridge. Raises RuntimeError with the compiler's words if it fails or is missing."""
    if shutil.which(COMPILER) is None:
        raise RuntimeError(f"{COMPILER} is missing: sudo apt install gcc-arm-none-eabi")
    with tempfile.TemporaryDirectory() as temporary:
        program, binary = Path(temporary) / "tiny_town.elf", Path(temporary) / "tiny_town.bin"
        copy = ["arm-none-eabi-objcopy", "-O", "binary", str(program), str(binary)]
        for command in ([COMPILER, *FLAGS, *SOURCES, "-lgcc", "-o", str(program)], copy):
            done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(done.stderr)
            sys.stderr.write(done.stderr)
        rom = bytearray(binary.read_bytes())
    rom += bytes(-len(rom) % BLOCK)
    rom[CHECKSUM] = (-sum(rom[TITLE:CHECKSUM]) - 0x19) & 0xFF
    return bytes(rom)


if __name__ == "__main__":
    cartridge = build()
    ROM.write_bytes(cartridge)
    print(f"{ROM}: {len(cartridge):,} bytes")
