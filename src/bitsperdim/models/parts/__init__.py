"""Parts of networks that several models share: masks, bijections, activations, dequantization noise."""
