"""Order, retries, gates. `nightly.py` is the whole project on one screen."""
