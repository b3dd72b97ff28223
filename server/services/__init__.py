"""The three services. Each only translates between the wire and the pipeline or the engine."""
