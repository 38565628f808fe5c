"""What everybody uses and what uses nobody: errors, units, files, random numbers, git, metrics and their words."""
