"""Other ways to read images for training, each as its own documentation shows it.

``streaming.py --peers`` compares with them. A file each; ``table`` measures.
"""
