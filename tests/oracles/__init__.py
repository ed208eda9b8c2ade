"""Independent float64 versions of every method, written step by step from the papers.

Nothing here imports layerpace. Each module holds one plain function a method, of one layer's weights, its
gradient and a dictionary of state; the keywords have the library's names, the code has the papers' order.
"""
