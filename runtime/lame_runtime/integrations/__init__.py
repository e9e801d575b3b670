"""Adapters of an encoder for other libraries, which must be installed separately.

haystack        embedders of Haystack: queries, documents, pictures that documents name
langchain       embeddings of LangChain
llama_index     the embedding of LlamaIndex
mteb            an encoder as a model of the Massive Text Embedding Benchmark
pytest_plugin   every row of a certificate as a test
triton          an encoder in the Python backend of Triton Inference Server
"""
