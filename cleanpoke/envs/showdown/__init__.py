"""Pokémon Showdown battles: simulator, tracker, encoder, teams, battle files."""
