"""What admitting rows stands on beside the verb itself: reading what is judged, and judging it."""
