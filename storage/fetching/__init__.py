"""Images at http(s) addresses that strangers wrote: asked for politely, and never from where they could do harm."""
