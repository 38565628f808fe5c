"""What must be right before any work: parameters that fit each other and the images."""
