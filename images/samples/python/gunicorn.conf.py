"""One worker with threads. It loads the application itself, so the process that watches over it stays small."""

import os

bind = f"0.0.0.0:{os.environ.get('PORT', '8080')}"
workers = 1
worker_class = "gthread"
threads = 8
wsgi_app = "app:app"
# Its place would be below the home directory, which a container with a read-only root cannot write.
control_socket_disable = True
