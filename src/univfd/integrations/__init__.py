"""This detector in the shapes that other libraries expect: one file a library, which alone imports it.

Nothing here decides or embeds by itself: they call `embedding.embed_images` and `Detector.detect`.
"""
