"""What an experiment tracker is told of a night that measured a challenger."""
