"""Models that were made elsewhere, asked as our own are: what they offer, what they take, and where they come from.

Somebody's PyTorch model, or a plain function, offers one of the methods of :data:`.methods.METHODS`;
:func:`.wrapping.wrap` makes an :class:`~bitsperdim.models.base.ImageModel` of it. What is constant (numbers of levels,
volumes of cells, units) is ours; what the model takes is declared (:class:`.convention.Convention`).
"""
