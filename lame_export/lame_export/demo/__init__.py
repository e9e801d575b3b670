"""The demo runs the whole pipeline on handwritten digits and writes a page about the results.

run_demo            data, training, export, search, PyTorch for comparison, table and page
torch_free_search   embeds in processes that cannot import PyTorch
outcome             the results that the table and the page show
page                the page, one self-contained HTML file
style               its style sheet
"""
