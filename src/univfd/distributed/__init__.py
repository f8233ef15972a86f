"""Millions of images on a Ray cluster: Ray Data runs the very same line in actors (extra `ray`).

    inputs ─ listing (partitions of N images) ─ Ray Data ─ actor: `Detector.detect` ─ one Parquet file a partition

`listing` says where each image is, `folder` is a run on disk or in a bucket, `workers` is what an actor does, `cluster`
hands partitions to actors, `running` puts them together. What is Ray's is left to Ray: scheduling, scaling, restarts.
Ray and pyarrow are imported inside functions, or in files that only the workers and runs import.
"""
