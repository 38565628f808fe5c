"""What a user may set: params.yaml and the sections of the families, typed; it knows no data set and no model."""
