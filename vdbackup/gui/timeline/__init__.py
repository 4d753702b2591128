"""The timeline: a graph and a table of recovery points, and what moves in it."""
