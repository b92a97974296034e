"""What is known of a run before anyone pays for its machines."""
