"""Streaming calibration: one window at a time, statistics computed inside the graph."""
