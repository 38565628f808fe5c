"""How images are split, quantized and binarized, stored, read back, and measured by yardsticks."""
