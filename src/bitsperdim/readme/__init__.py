"""The numbers in README.md, written from committed files: none is typed."""
