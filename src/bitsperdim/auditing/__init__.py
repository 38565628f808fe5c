"""Checks that a number must pass before it is believed, for models that were made elsewhere: ``bitsperdim audit``."""
