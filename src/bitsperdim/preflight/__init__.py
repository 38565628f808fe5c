"""Checks before any work begins: the parameters must fit each other and the images."""
