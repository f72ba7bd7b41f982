"""What `learnlag compare` is made of: configuration, trials, standings."""
