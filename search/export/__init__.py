"""A release in forms that need neither Pairloom nor LanceDB."""
