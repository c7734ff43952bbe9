"""mosquitto as the measure beside ours: a plain broker that stores nothing, with one subscriber to everything."""
import shutil
import subprocess
import tempfile
from pathlib import Path

import rawmqtt
from platform_under_test import free_base
from waiting import wait_until


class Mosquitto:
    def __enter__(self):
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="cwpeer")), free_base()
        (self.folder / "conf").write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
                                          "max_queued_messages 0\nmax_inflight_messages 0\nlog_dest none\n"
                                          "set_tcp_nodelay true\n")  # fmt: skip
        self.folder.chmod(0o755)
        broker = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self.processes = [subprocess.Popen([broker, "-c", str(self.folder / "conf")])]
        wait_until(self._answers, 10, 0.05, "mosquitto listens")
        self.processes.append(subprocess.Popen(
            ["mosquitto_sub", "-p", str(self.port), "-t", "$oc/#", "-q", "0", "-F", "%l"], stdout=subprocess.DEVNULL))
        return self

    def _answers(self):
        try:
            rawmqtt.Wire("127.0.0.1", self.port).close()
            return True
        except OSError:
            return False

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(10)
        shutil.rmtree(self.folder)
