"""THE loop, and what it is made of: objectives, optimiser, schedule, precision, checkpoints."""
