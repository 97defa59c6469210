"""Bounds of loading, and who decodes."""

import os
from dataclasses import dataclass, field
from enum import StrEnum

from engine.loading.device_decode import DeviceOptions
from engine.loading.isolation import IsolationOptions
from engine.loading.slices import SliceOptions


class Decoder(StrEnum):
    """Who decodes JPEG 2000 and HTJ2K; everything else the CPU does."""

    CPU = "cpu"
    NVIMAGECODEC = "nvimagecodec"  # on a GPU, checked against the CPU


@dataclass(frozen=True)
class LoadingOptions:
    """Bounds of loading."""

    max_voxels: int = 2**29  # 1 GiB of HU; 512 x 512 x 2048
    max_instances: int = 10_000  # our choice, of frames too: what is kept of their headers stays small
    threads: int = 0  # that decode; 0: as many as this process has cores, at most 8
    decoder: Decoder = Decoder.CPU
    device: DeviceOptions = field(default_factory=DeviceOptions)  # where nvImageCodec decodes
    isolation: IsolationOptions = field(default_factory=IsolationOptions)  # of the CPU's decoders
    slices: SliceOptions = field(default_factory=SliceOptions)

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if self.max_voxels < 1 or self.max_instances < 1 or self.threads < 0:
            raise ValueError("max_voxels and max_instances must be above 0, threads not below 0")

    @property
    def threads_here(self) -> int:
        """How many threads decode on this machine."""
        return self.threads or min(8, len(os.sched_getaffinity(0)))
