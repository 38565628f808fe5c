"""Checks that a number from somebody else's model must pass before it is believed: ``bitsperdim audit``."""
