"""Millions of images on a Ray cluster: Ray Data runs the very same line in actors (extra `ray`).

    inputs ─ listing (partitions of N images) ─ Ray Data ─ actor: `Detector.detect` ─ one Parquet file a partition

`listing` says where each image is (`entry`: one of them; `shards`: in Parquet; `buckets`: in buckets; `stores` opens
them by their `urls`), `plans` which partitions of a run are missing, `workers` what an actor does, `cluster` hands
partitions to actors, `running` puts them together; `cached` fills the embedding cache. What is Ray's is left to Ray:
scheduling, scaling, restarts.
"""
