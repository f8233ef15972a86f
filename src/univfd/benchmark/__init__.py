"""Detectors on labelled images: score rows first (`run`), figures from the rows alone second (`figures`, `tables`)."""
