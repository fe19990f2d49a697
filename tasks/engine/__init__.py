"""Where the stages of a night that map over parts run: on this machine, or on a Ray cluster."""
