"""What a long run looks at: memory and descriptors of each process, what the metrics say, room on the disk."""
import os
import shutil
import threading
import time

import machine
from platform_under_test import DAEMONS

PROCESSES = [*DAEMONS, "nats-server"]


class TooSmall(Exception):
    pass


def need_disk(folder, bytes_needed):
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise TooSmall(f"{folder} has {free / 2**30:.0f} GB free; this run may need {bytes_needed / 2**30:.0f} GB")


class Watch:
    """A sample of every process each `each` seconds, while the context lasts."""

    def __init__(self, platform, each=5):
        self.platform, self.each = platform, each
        self.samples = []  # (seconds, {process: (resident MB, descriptors)}, {metric: value of the gateway})
        self.ending = threading.Event()

    def __enter__(self):
        self.begun = time.monotonic()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.thread.join()

    def _run(self):
        while not self.ending.wait(self.each):
            self.samples.append((time.monotonic() - self.begun, self._processes(), self._gateway()))

    def _processes(self):
        seen = {}
        for name in PROCESSES:
            for pid in self.platform.processes(name):
                try:
                    seen[name] = (machine.memory_kb(pid) / 1024, len(os.listdir(f"/proc/{pid}/fd")))
                except OSError:
                    pass  # it has just ended; the assertions at the end see that
        return seen

    def _gateway(self):
        try:
            return {k: v for k, v in self.platform.metrics("mqtt-gateway").items() if "throttled" in k or "log_full" in k}
        except OSError:
            return {}

    def series(self, name, what=0):
        return [sample[name][what] for _, sample, _ in self.samples if name in sample]

    def peak(self, name):
        return max(self.series(name))

    def metric(self, name):
        return [m[name] for _, _, m in self.samples if name in m]


def table(head, rows):
    line = "| " + " | ".join(head) + " |\n|" + " --- |" * len(head) + "\n"
    return line + "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in rows)
