"""The network face: gRPC, batching, metrics. Stands over indexer, and never imports torch."""
