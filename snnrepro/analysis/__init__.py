"""What the paper measures besides accuracy: statistics, what a trained network does inside, figures, claims."""
