"""A run: its settings made concrete, its folder, its loop, its end."""
