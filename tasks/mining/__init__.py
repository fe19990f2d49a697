"""What mining stands on beside the verb itself: pairs given, found and measured."""
