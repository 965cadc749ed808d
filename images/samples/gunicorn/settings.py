"""Three workers, each a process of its own that loads the application."""

bind = "0.0.0.0:8080"
workers = 3
chdir = "/app/gunicorn"
worker_tmp_dir = "/dev/shm"
control_socket_disable = True
