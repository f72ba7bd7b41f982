"""The commands of `learnlag`: each adds its arguments and returns its exit code."""
