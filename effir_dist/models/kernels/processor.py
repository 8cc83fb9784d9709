"""What this machine's CPU is, where one maker's is faster by another way than the other's (docs/results/speed.md)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Linux says there who made the CPU; elsewhere nobody is asked, and it is taken for another maker's than AMD."""


@dataclass(frozen=True)
class Processor:
    """The facts of a CPU that decide which way is faster."""

    amd: bool = False
    """Whether AMD made it."""
    amx: bool = False
    """Whether it has matrix units (AMX)."""
    avx512: bool = False
    avx512_bf16: bool = False
    """Whether it has AVX-512's instructions for bfloat16."""

    @property
    def multiplies_bfloat16(self) -> bool:
        """Whether bfloat16 beats float32: with AMX, or with AVX-512's instructions for it on AMD's cores (2.1 times).

        Those instructions alone were slower on a CPU whose maker was not noted (docs/experiments.md).
        """
        return self.amx or (self.avx512_bf16 and self.amd)

    @property
    def multiplies_by_mkl(self) -> bool:
        """Whether matrix products in float32 by torch's MKL beat faiss's OpenBLAS: on Intel's cores with AVX-512."""
        return self.avx512 and not self.amd


@functools.cache
def this_processor(cpuinfo: Path = CPUINFO) -> Processor:
    """The CPU of this machine, as torch and the file `cpuinfo` say."""
    import torch

    return Processor(
        amd=cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text(),
        amx=bool(torch.cpu._is_amx_tile_supported()),
        avx512=torch.backends.cpu.get_cpu_capability() == "AVX512",
        avx512_bf16=bool(torch.cpu._is_avx512_bf16_supported()),
    )
