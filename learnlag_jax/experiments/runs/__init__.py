"""Training runs that survive: the loop, its directory and checkpoints, several processes, a live audit."""
