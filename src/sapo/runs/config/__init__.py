"""One validated, frozen configuration at the door; rooms inside take what they use."""
