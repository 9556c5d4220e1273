"""What a run would cost on hardware that is not here: the real step, compiled ahead of time."""
