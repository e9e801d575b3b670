"""Row formats: how one row of a published data set, or of our own JSONL, is read as a `Pair`.

registry        the formats by name (`FORMATS`), and our own JSONL format
mmeb            MMEB-train: texts with their instruction inside, pictures as paths
documents       ColPali and VisRAG: questions and the pages that answer them
conversations   LLaVA-Hound: conversations about videos that are stored as frames
"""
