"""The metrics: one file and one line of the union for each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hubpub.measure.metrics.argmax_agreement import ArgmaxAgreement
from hubpub.measure.metrics.cer import Cer
from hubpub.measure.metrics.cosine import Cosine
from hubpub.measure.metrics.der import Der
from hubpub.measure.metrics.disagreement import Disagreement
from hubpub.measure.metrics.download_size import DownloadSize
from hubpub.measure.metrics.eer import Eer
from hubpub.measure.metrics.kl import Kl
from hubpub.measure.metrics.latency import Latency
from hubpub.measure.metrics.load_time import LoadTime
from hubpub.measure.metrics.log_mel_distance import LogMelDistance
from hubpub.measure.metrics.max_abs_diff import MaxAbsDiff
from hubpub.measure.metrics.min_dcf import MinDcf
from hubpub.measure.metrics.peak_rss import PeakRss
from hubpub.measure.metrics.rtf import Rtf
from hubpub.measure.metrics.snr import Snr
from hubpub.measure.metrics.trial_shift import TrialShift
from hubpub.measure.metrics.wer import Wer

MetricName = Literal[
    "wer",
    "cer",
    "disagreement",
    "cosine",
    "max_abs_diff",
    "snr",
    "kl",
    "argmax_agreement",
    "log_mel_distance",
    "der",
    "eer",
    "min_dcf",
    "trial_shift",
    "rtf",
    "latency",
    "load_time",
    "peak_rss",
    "download_size",
]
"""The registry; tests run over it."""

AnyMetric = Annotated[
    Wer
    | Cer
    | Disagreement
    | Cosine
    | MaxAbsDiff
    | Snr
    | Kl
    | ArgmaxAgreement
    | LogMelDistance
    | Der
    | Eer
    | MinDcf
    | TrialShift
    | Rtf
    | Latency
    | LoadTime
    | PeakRss
    | DownloadSize,
    Field(discriminator="metric"),
]
