"""What the window has done: the engine's calls, on threads of their own, and what came of them.

`worker.py` and `panel.py` run and show jobs. The others hold what jobs do, a file for each kind:
calls of the engine that return a plan or an `Outcome`, take plain values, and know nothing of Qt.
"""
