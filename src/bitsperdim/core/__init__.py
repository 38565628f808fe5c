"""The basis of all other rooms: errors, units, files, random numbers, git, and the metrics with their wording."""
