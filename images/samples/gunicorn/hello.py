"""What each of gunicorn's workers answers: who it is, and how often it was asked. /app/python/.venv/bin/gunicorn -c /app/gunicorn/settings.py hello:app"""

import os

from flask import Flask

app = Flask(__name__)
asked = 0


@app.get("/")
def hello():
    global asked
    asked += 1
    return f"gunicorn {os.uname().nodename} {os.getpid()} {asked}\n"
