"""THE training loop, with objectives, optimisers, schedules, precision and checkpoints."""
