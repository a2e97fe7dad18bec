"""What networks learn: losses, penalties, predictions, metrics. Imports nothing: option modules lie here."""
