"""The engine: catalogue, images, encoder, index, generation, recall.

A library: no network face, no metrics, no torch.
"""
