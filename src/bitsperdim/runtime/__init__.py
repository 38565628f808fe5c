"""How a stage runs, stops and goes on: device, processes, checkpoints, shards of the work."""
