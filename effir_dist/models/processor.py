"""What this machine's CPU is, where one maker's is faster by another way than the other's (docs/speed.md)."""

from __future__ import annotations

from pathlib import Path


def made_by_amd() -> bool:
    """As Linux says; elsewhere False."""
    facts = Path("/proc/cpuinfo")
    return facts.is_file() and "AuthenticAMD" in facts.read_text()


def multiplies_bfloat16() -> bool:
    """Whether bfloat16 is faster than float32: with AMX, or AVX-512's instructions for it on AMD's cores (2.1 times).

    Those instructions alone were slower on a processor whose maker was not noted (docs/experiments.md).
    """
    import torch

    if torch.cpu._is_amx_tile_supported():
        return True
    return bool(torch.cpu._is_avx512_bf16_supported()) and made_by_amd()


def multiplies_by_mkl() -> bool:
    """Whether torch's matrix products in float32, by MKL, beat faiss's, by OpenBLAS: on Intel's cores with AVX-512."""
    import torch

    return torch.backends.cpu.get_cpu_capability() == "AVX512" and not made_by_amd()
