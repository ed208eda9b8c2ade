"""What a process holds of a sharded parameter, and the one all-reduce of a step."""
