"""A Linux on a disk: its kernels, what they start from, and who starts them."""
