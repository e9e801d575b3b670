"""`lame-export bisect`: finds the layers at which a graph leaves PyTorch, and what corrects it.

bisection           compares a bundle's graph with its checkpoint, modality by modality
bisection_result    what was found, and the limits it is judged by
island_search       layers that bring a graph back when computed at higher precision
module_outputs      which graph value each PyTorch module computes, and PyTorch's side
graph_errors        the graph's side on ONNX Runtime, and the error of every value
instrumented_plans  the graph's side on TensorRT
report              the result as text and as a plot
"""
