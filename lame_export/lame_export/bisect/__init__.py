"""`lame-export bisect`: where a graph leaves PyTorch, layer by layer.

values    both sides run, value by value
device    the graph's side on TensorRT
compare   where errors begin, and what mends them
report    as text and as a plot
"""
