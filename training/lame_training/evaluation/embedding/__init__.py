"""Embeds the inputs of a task, each distinct input once over all runs.

embedder        inputs to vectors: from the cache, or in shards through the encoder
identity        hashes of everything that an embedding depends on: model, options, content
vector_cache    vectors on disk under these hashes
"""
