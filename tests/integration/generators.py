"""The generators of load (tests/load) as Python objects: swarm plays devices, sink is a callback address, caller
calls the REST API. Each prints JSON, which is what their functions give back."""
import json
import subprocess
import urllib.request

import pytest

from deployed import ACCESS
from platform_under_test import BUILD, free_base
from waiting import wait_until


class Failed(AssertionError):
    pass


def run(program, allowed=(0,), timeout=3600, **options):
    """Runs a generator to its end; options with _ for -, True for a flag."""
    done = subprocess.run(command(program, **options), capture_output=True, text=True, timeout=timeout)
    if done.returncode not in allowed:
        raise Failed(f"{program} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def command(program, **options):
    words = [str(BUILD / "bin" / program)]
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return words


def swarm(port, devices, **options):
    return run("swarm", port=port, devices=devices, json=True, quiet=True, **options)


def call(api, method, path, **options):
    """Calls below /v5/iot/{project_id}; api: rest.Api with a token."""
    if not api.token:
        api.login()
    port = int(api.base.rpartition(":")[2])
    return run("caller", port=port, method=method, path=f"/v5/iot/{api.project}{path}", token=api.token, **options)


class Sink:
    def __enter__(self):
        if ACCESS:
            pytest.skip("listens on loopback, where a platform elsewhere does not reach it")
        self.port = free_base()
        self.url = f"http://127.0.0.1:{self.port}/sink"
        self.process = subprocess.Popen(command("sink", port=self.port), stdout=subprocess.DEVNULL)
        wait_until(self._answers, 10, 0.05, "the sink listens")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)

    def _answers(self):
        try:
            return self.figures() is not None
        except OSError:
            return False

    def figures(self, reset=False):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{'reset' if reset else ''}", timeout=10) as answer:
            return json.loads(answer.read())
