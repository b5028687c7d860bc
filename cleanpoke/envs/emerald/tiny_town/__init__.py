"""Tiny Town, a small game of our own with Emerald's memory layout: sources, the built ROM, an expert."""
