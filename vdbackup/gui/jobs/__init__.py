"""What the window has done: the engine's calls, on threads of their own, and what came of them."""
