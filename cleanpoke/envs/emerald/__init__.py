"""Pokémon Emerald and its stand-in on the mGBA core: memory, milestones, environment, demonstrations."""
