"""Running other programs: their commands, output, progress, and what an interrupted one left behind."""
