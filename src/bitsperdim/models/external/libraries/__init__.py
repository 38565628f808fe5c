"""Adapters that give models of other libraries one of the methods that an external model may offer."""
