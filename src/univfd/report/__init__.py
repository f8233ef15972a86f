"""A finished benchmark as one HTML file that asks nothing of the network: tables to read at a glance, curves, pictures.

Everything comes from the score rows and their figures (`univfd.benchmark`), from embeddings that are still cached, and
from the user's own images where they are found again. Needs the extra `report`.
"""
