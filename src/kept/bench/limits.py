"""The two limits of the machine, measured beside what is held against them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from kept import machine
from kept.errors import BackendError


@dataclass(slots=True)
class Limits:
    """Every probe of a measurement; the better ones count, since disturbances only slow a probe.

    bandwidths: read bandwidth of memory. peaks: of the arithmetic the model computes in.
    unmeasured: why one of the two could not be had.
    """

    bandwidths: list[machine.Rate] = field(default_factory=list)
    peaks: list[machine.Rate] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second, the best seen."""
        return max((rate.best for rate in self.bandwidths), default=None)

    @property
    def peak(self) -> machine.Rate | None:
        """The probe of matrix arithmetic that did best."""
        return max(self.peaks, key=lambda rate: rate.best, default=None)

    def measure(
        self,
        device: torch.device,
        dtype: machine.MatrixDtype,
        num_threads: int | None = None,
        isa: str | None = None,
    ) -> None:
        """Probe both, and add what they say; on another device than the CPU there is no probe.

        num_threads: of the probes, None for as many as there are CPUs. isa: instructions that bound
        the peak, None: the CPU's best. What cannot be measured is noted: runs of minutes are worth
        having without it.
        """
        if device.type != "cpu":
            return
        try:
            self.bandwidths.append(machine.measure_bandwidth(num_threads))
        except BackendError as error:
            self._note(f"read bandwidth: {error}")
        try:
            self.peaks.append(machine.measure_matrix_peak(dtype, num_threads, isa=isa))
        except BackendError as error:
            self._note(f"matrix peak: {error}")

    def _note(self, reason: str) -> None:
        if reason not in self.unmeasured:
            self.unmeasured.append(reason)
