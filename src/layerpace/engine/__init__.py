"""What makes a step run; private."""
