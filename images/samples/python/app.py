"""Sample workload of rekindle: a scikit-learn model behind gunicorn (see gunicorn.conf.py)."""

import os
import ssl
import threading
import time
import uuid

from flask import Flask, jsonify, request

from model import Digits


def process_started_at():
    """Milliseconds since the epoch at which this process started, from the kernel: before the imports, which are half of the start."""
    with open("/proc/self/stat") as stat:
        ticks = int(stat.read().rsplit(")", 1)[1].split()[19])  # field 22, proc_pid_stat(5)
    since_boot = ticks / os.sysconf("SC_CLK_TCK")
    return round((time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot) * 1000)


app = Flask(__name__)
lock = threading.Lock()
counts = {"requests": 0, "warmed": 0}
started_at = process_started_at()
model = Digits()


@app.before_request
def count():
    with lock:
        counts["requests"] += 1


@app.get("/healthz")
def healthz():
    ready = model.ready.is_set()
    return jsonify(ready=ready, failure=model.failure), 200 if ready else 503


@app.get("/")
def index():
    # The host name is asked for at every request: a clone must not answer with the seed's.
    return jsonify(host=os.uname().nodename, pid=os.getpid(), startedAt=started_at, accuracy=model.accuracy, **counts)


@app.get("/warm")
def warm():
    share = model.predict(request.args.get("n", default=100, type=int))
    with lock:
        counts["warmed"] += 1
    return jsonify(warmed=counts["warmed"], right=share)


@app.get("/work")
def work():
    ms = request.args.get("ms", default=30, type=int)
    time.sleep(ms / 1000)
    return jsonify(host=os.uname().nodename, ms=ms)


@app.get("/random")
def random():
    return jsonify(ssl=ssl.RAND_bytes(16).hex(), bytes=os.urandom(16).hex(), uuid=str(uuid.uuid4()))
