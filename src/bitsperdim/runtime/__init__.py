"""How a stage runs, stops and resumes: device, processes, checkpoints, division of the work into blocks."""
