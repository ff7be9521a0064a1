"""Other ways to read images for training, each as its own documentation shows it; a file each.

``streaming.py --peers`` compares with them by ``table``. What is not installed is left out.
"""
