"""CleanPoke: Pokémon-playing agents, one file per algorithm."""
