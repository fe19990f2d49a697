"""One Prefect task per verb: read by ref, call pure code, write, return a ref."""
