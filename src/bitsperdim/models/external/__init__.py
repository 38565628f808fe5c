"""External models: models made outside of this package, with the same interface as its own models.

An external model is a PyTorch module, another object or a plain function. It offers one of the methods of
:data:`.methods.METHODS`, and :func:`.wrapping.wrap` turns it into an :class:`~bitsperdim.models.base.ImageModel`. This
package handles the constants (number of levels, volume of a cell, units). The user declares the form of the inputs that
the model takes (:class:`.convention.Convention`).
"""
