"""Streaming calibration: one window at a time, statistics computed inside the graph.

`calibrate` gives a range per value; `observe` answers any mix of probes (extremes per channel, tails, histograms,
sampled rows) in one pass.
"""

from hubpub.transform.calibration.observe import Observations, observe
from hubpub.transform.calibration.probes import Extremes, Histogram, Probe, Rows, Tail
from hubpub.transform.calibration.ranges import METHOD_HELP, Method, Range, Ranges, calibrate

__all__ = [
    "METHOD_HELP",
    "Extremes",
    "Histogram",
    "Method",
    "Observations",
    "Probe",
    "Range",
    "Ranges",
    "Rows",
    "Tail",
    "calibrate",
    "observe",
]
