"""Data: where images come from (``sources``), how they are split, quantized and binarized (``preparation``)."""
