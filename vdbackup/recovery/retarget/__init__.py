"""Retarget: change what is on a point's overlay so that its machine boots on other hardware."""
