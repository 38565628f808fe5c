"""Generation of the numbers in README.md and docs/known-truths.md from committed files."""
