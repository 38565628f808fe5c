"""What everybody uses and what uses nobody: errors, units, files, random numbers, git, words beside a number."""
