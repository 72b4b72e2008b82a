"""Audio in: what a recipe says of its clips, decoding, resampling, provenance, disjointness."""
