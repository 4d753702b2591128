"""Virtual machines in the window: their sessions, and what is known of a point's machine."""
