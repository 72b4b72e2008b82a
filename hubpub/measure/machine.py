"""What a run can find out about the machine and the process it runs in."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from hubpub.measure.measurement import Machine

_KERNELS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve")


def machine() -> Machine:
    """The class of this machine."""
    cpu, flags = _linux_cpu() if sys.platform == "linux" else _other_cpu()
    return Machine(
        cpu=cpu or platform.machine(),
        kernels=" ".join(kernel for kernel in _KERNELS if kernel in flags),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else (os.cpu_count() or 1),
        system=f"{_system()} {platform.machine()}",
    )


def peak_rss_bytes() -> int:
    """The most memory that this process has held.

    On Linux VmHWM: ``ru_maxrss`` survives exec, so a worker would report the memory of the process that started it.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


class OthersClock:
    """CPU time that other processes, or other machines on the same host, take of the cores that this one may use."""

    def __init__(self) -> None:
        self._busy, self._own = _cpu_seconds()

    def seconds(self) -> float | None:
        """Since this was made; ``None`` where the system does not tell."""
        busy, own = _cpu_seconds()
        return None if busy is None or self._busy is None else max(0.0, busy - self._busy - (own - self._own))


def _cpu_seconds() -> tuple[float | None, float]:
    """What all processes have taken of the cores, time stolen by a hypervisor included, and what this one has."""
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    if sys.platform != "linux":
        return None, own
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    with suppress(OSError, ValueError, IndexError):  # hidden from a container, or not as proc(5) has it
        lines = [line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()]
        ticks = [[int(tick) for tick in line[1:9]] for line in lines if line[0] in cores]
        busy = sum(sum(each) - each[3] - each[4] for each in ticks)  # all but idle and iowait
        return busy / os.sysconf("SC_CLK_TCK"), own
    return None, own


def _system() -> str:
    """On macOS with its version, which is that of Core ML."""
    return f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.system()


def _linux_cpu() -> tuple[str, set[str]]:
    info: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    return info.get("model name", ""), set((info.get("flags") or info.get("Features") or "").split())


def _other_cpu() -> tuple[str, set[str]]:
    try:
        asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip(), set()
    except (OSError, subprocess.CalledProcessError):
        return platform.processor(), set()
